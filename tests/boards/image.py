"""The image that every board starts from: what an administrator flashes, plus packages for a board without internet."""

from __future__ import annotations

import fcntl
import hashlib
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.boards import emulator
from tests.boards.host import cache, call, native

SUITE = "bookworm"
USER = "ops"
#: What a flashed board has.
INSTALLED = (
    "ca-certificates", "dbus", "iproute2", "libpam-systemd", "netbase", "openssh-server", "procps", "python3",
    "python3-apt", "sudo", "systemd", "systemd-sysv", "udev",
)  # fmt: skip
#: What `apt-get install` finds on a board, in a repository that is a folder of the image.
OFFERED = ("mosquitto", "mosquitto-clients", "python3-venv")
REPOSITORY = "srv/debs"
#: Nothing may go to the network by itself, and nothing needs a console.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "fstrim.timer",
)  # fmt: skip
FILES = {
    "etc/apt/sources.list": f"deb [trusted=yes] file:/{REPOSITORY} ./\n",
    f"etc/sudoers.d/{USER}": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    "etc/ssh/sshd_config.d/boards.conf": "PasswordAuthentication no\nUseDNS no\nMaxStartups 50\nMaxSessions 50\n",
    "etc/systemd/journald.conf.d/boards.conf": "[Journal]\nStorage=persistent\nSystemMaxUse=64M\nRateLimitBurst=0\n",
    # Of every board its own: systemd makes it at the first boot.
    "etc/machine-id": "",
    "etc/resolv.conf": "nameserver 127.0.0.1\n",
}


def digest(arch: str) -> str:
    """Of the recipe, which is this file and for another processor the emulator's."""
    sources = [Path(__file__)] + ([Path(emulator.__file__)] if arch != native() else [])
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


def image(arch: str, say: Callable[[str], None]) -> Path:
    """The folder with the root file system, built unless it has been; `host.require` comes first.

    Raises:
        BoardsError: It cannot be built; quotes what failed.
    """
    folder = cache() / "images" / f"{SUITE}-{arch}-{digest(arch)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            say(f"building the boards' image in {folder}; this takes a minute or two, once")
            start_s = time.monotonic()
            _build(arch, folder)
            say(f"built in {time.monotonic() - start_s:.0f} s")
    return folder


def _build(arch: str, folder: Path) -> None:
    part = folder.with_suffix(".part")
    root = part / "root"
    if root.is_mount():
        call(["umount", root])
    shutil.rmtree(part, ignore_errors=True)
    for name in ("root", "lower", "upper", "work"):
        (part / name).mkdir(parents=True)
    # A volatile overlay does not write to disk when dpkg asks for it after every file: the build takes 2/3 of the time.
    options = f"lowerdir={part}/lower,upperdir={part}/upper,workdir={part}/work,volatile"
    call(["mount", "-t", "overlay", "overlay", "-o", options, root])
    try:
        _bootstrap(arch, root)
        _index(root / REPOSITORY)
        _configure(root)
        if arch != native():
            emulator.adapt(root)
    finally:
        call(["umount", root])
    (part / "upper").rename(folder)
    shutil.rmtree(part)


def _bootstrap(arch: str, root: Path) -> None:
    offered = " ".join(OFFERED)
    download = f"apt-get --yes --download-only --option Dir::Cache::archives=/{REPOSITORY} install {offered}"
    hook = f'mkdir -p "$1"/{REPOSITORY}/partial; chroot "$1" {download}'
    without = [f"--dpkgopt=path-exclude=/usr/share/{it}/*" for it in ("doc", "i18n", "locale", "man")]
    call(
        [
            "mmdebstrap", "--mode=root", "--variant=minbase", "--quiet", f"--architectures={arch}",
            f"--include={','.join(INSTALLED)}",
            '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
            '--aptopt=Acquire::Retries "3"', "--dpkgopt=force-unsafe-io", *without,
            f"--customize-hook={hook}", SUITE, root,
        ]
    )  # fmt: skip


def _index(repository: Path) -> None:
    """Make a repository of a folder of packages."""
    for rest in ("partial", "lock"):
        call(["rm", "-rf", repository / rest])
    entries = []
    for package in sorted(repository.glob("*.deb")):
        content = package.read_bytes()
        entries.append(
            f"{call(['dpkg-deb', '--field', package]).strip()}\nFilename: ./{package.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
    packages = "\n".join(entries).encode()
    (repository / "Packages").write_bytes(packages)
    # Tells apt that there is no compressed one.
    release = f"SHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    (repository / "Release").write_text(f"Date: Thu, 01 Jan 1970 00:00:00 UTC\n{release}")


def _configure(root: Path) -> None:
    shutil.rmtree(root / "etc/apt/sources.list.d", ignore_errors=True)
    for name, content in FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(content)
    (root / f"etc/sudoers.d/{USER}").chmod(0o440)
    (root / "var/log/journal").mkdir(exist_ok=True)
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    # Of every board its own, as the name.
    for file in [*root.glob("etc/ssh/ssh_host_*"), root / "etc/hostname"]:
        file.unlink(missing_ok=True)
    commands = (
        f"useradd --create-home --shell /bin/bash --groups sudo,adm,systemd-journal {USER}",
        f"install --directory --mode=700 --owner={USER} --group={USER} /home/{USER}/.ssh",
        "apt-get update",
    )
    for command in commands:
        call(["chroot", root, *shlex.split(command)])
