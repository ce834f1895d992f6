"""64-bit ARM boards on another processor: qemu-user runs every one of their programs, systemd included."""

from __future__ import annotations

from pathlib import Path

from tests.boards.host import BoardsError, call

BINFMT = Path("/proc/sys/fs/binfmt_misc")
#: The ELF header of a 64-bit ARM program, and which of its bits count (binfmt_misc of the Linux kernel).
MAGIC = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
INTERPRETER = "/usr/libexec/qemu-binfmt/aarch64-binfmt-P"
#: qemu-user keeps two real-time signals for itself and hands on the others under a number that is two lower.
SIGNALS_KEPT = 2
#: /proc/cpuinfo is the host's, and a library that looks there for an ARM's features crashes on a PC's. A Cortex-A72.
CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""
CPUINFO_UNIT = """[Unit]
Description=An ARM's /proc/cpuinfo for programs under qemu-user
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mount --bind /etc/arm-cpuinfo /proc/cpuinfo
[Install]
WantedBy=sysinit.target
"""
#: Their credentials need mounts that qemu-user cannot make.
WITHOUT_CREDENTIALS = (
    "systemd-sysctl", "systemd-sysusers",
    "systemd-tmpfiles-clean", "systemd-tmpfiles-setup", "systemd-tmpfiles-setup-dev",
)  # fmt: skip


def register() -> None:
    """Tell this machine's kernel to run 64-bit ARM programs with qemu-user.

    Raises:
        BoardsError: The kernel does not take it.
    """
    if not (BINFMT / "register").exists():
        call(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT])
    entry = BINFMT / "qemu-aarch64"
    if entry.exists():
        flags = next(line for line in entry.read_text().splitlines() if line.startswith("flags:"))
        if "C" in flags and "F" in flags:
            return
        entry.write_text("-1")
    # C: the credentials of the ARM program, without which sudo is not root; F: the interpreter is this machine's.
    try:
        (BINFMT / "register").write_text(f":qemu-aarch64:M::{MAGIC}:{MASK}:{INTERPRETER}:OPCF")
    except OSError as error:
        raise BoardsError(f"the kernel does not take qemu-user for 64-bit ARM programs: {error}") from error


def adapt(root: Path) -> None:
    """Prepare an image for qemu-user."""
    (root / "etc/arm-cpuinfo").write_text(CPUINFO)
    units = root / "etc/systemd/system"
    (units / "arm-cpuinfo.service").write_text(CPUINFO_UNIT)
    wants = units / "sysinit.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "arm-cpuinfo.service").symlink_to("../arm-cpuinfo.service")
    for unit in WITHOUT_CREDENTIALS:
        folder = units / f"{unit}.service.d"
        folder.mkdir()
        (folder / "qemu-user.conf").write_text("[Service]\nLoadCredential=\nSetCredential=\n")
