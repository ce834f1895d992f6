"""What the machine that carries the boards needs, and how its commands are run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

#: Debian package by the program that it brings.
PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "nft": "nftables",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}
#: Without it another distribution than Debian does not trust Debian's archive.
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
EMULATOR = {"qemu-aarch64-static": "qemu-user-static", "arch-test": "arch-test"}
CGROUPS = Path("/sys/fs/cgroup")
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
ARCHITECTURES = ("amd64", "arm64")


class BoardsError(Exception):
    """The boards cannot be had; says what to do."""


def call(command: Sequence[str | Path], stdin: str | None = None, check: bool = True) -> str:
    """Run a command and return its output.

    Raises:
        BoardsError: It fails; quotes its last words.
    """
    done = subprocess.run(
        [str(word) for word in command], input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if check and done.returncode != 0:
        words = " ".join(str(word) for word in command)
        raise BoardsError(f"{words[:300]}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout


def cache() -> Path:
    """Where images and running fleets are kept: $XDG_CACHE_HOME/edge-peer/boards."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-peer/boards"


def native() -> str:
    """This machine's architecture as Debian names it."""
    machine = platform.machine()
    return MACHINES.get(machine, machine)


def hierarchies() -> tuple[Path, ...]:
    """The mounts of control groups that a board must be in; the first is of version 2, which can end all its processes.

    Raises:
        BoardsError: There is none of version 2.
    """
    if (CGROUPS / "cgroup.controllers").exists():
        return (CGROUPS,)
    if (CGROUPS / "unified/cgroup.controllers").exists():
        # Version 1 has the controllers there, so that limits of memory on a board are said but not kept.
        return (CGROUPS / "unified", CGROUPS / "systemd")
    raise BoardsError(
        f"{CGROUPS} has no control groups of version 2; boot the machine with systemd.unified_cgroup_hierarchy=1"
    )


def require(arch: str, say: Callable[[str], None]) -> None:
    """See that this machine can carry boards of an architecture; installs Debian packages that are missing.

    Raises:
        BoardsError: It cannot; says what to do.
    """
    if arch not in ARCHITECTURES:
        raise BoardsError(f"ARCH is {arch}; there are boards of {' and '.join(ARCHITECTURES)}")
    if os.geteuid() != 0:
        raise BoardsError(
            "boards need root: they are containers with a network of their own (make test-boards asks sudo)"
        )
    hierarchies()
    wanted = PACKAGES | (EMULATOR if arch != native() else {})
    missing = {package for program, package in wanted.items() if shutil.which(program) is None}
    if not KEYRING.exists():
        missing.add("debian-archive-keyring")
    if missing:
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *sorted(missing)]
        if shutil.which("apt-get") is None:
            raise BoardsError(f"{', '.join(sorted(missing))}: missing, and there is no apt-get to install them with")
        say(f"installing {', '.join(sorted(missing))} (apt-get)")
        call(["apt-get", "update"])
        call(["env", "DEBIAN_FRONTEND=noninteractive", *install])
    if arch != native():
        from tests.boards.emulator import register

        register()
