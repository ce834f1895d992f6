"""A board's SD card: an ext4 file system in a file, on a loop device that counts every sector written to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SECTOR_BYTES = 512
#: Of /sys/block/*/stat, from 0: write requests, and sectors written.
REQUESTS, SECTORS = 4, 6
SIZE_BYTES = 256 * 1024 * 1024
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def why_not() -> str:
    """Why this machine cannot have one; empty: it can."""
    if os.geteuid() != 0:
        return "only root can mount a file system"
    gone = [it for it in ("mkfs.ext4", "losetup", "mount", "umount", "sync") if shutil.which(it, path=PATH) is None]
    return f"{', '.join(gone)} not installed" if gone else ""


def _run(*command: object) -> str:
    environment = {**os.environ, "PATH": PATH, "LC_ALL": "C"}
    done = subprocess.run([str(it) for it in command], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


class Card:
    """Mounted from its making until `remove`; as on Raspberry Pi OS, with the journal and without access times.

    Args:
        folder: Where the file system's file is.
        mount: Where it is mounted; made.

    Raises:
        OSError: This machine does not let us.
    """

    def __init__(self, folder: Path, mount: Path) -> None:
        image = folder / f"{mount.name}.ext4"
        with image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        # All of its tables at once: else the kernel writes them little by little while we count.
        _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", image)
        self._device = _run("losetup", "--find", "--show", image)
        self._mount = mount
        mount.mkdir(parents=True)
        try:
            _run("mount", "-o", "noatime", self._device, mount)
        except OSError:
            _run("losetup", "--detach", self._device)
            raise

    def written(self) -> tuple[int, int]:
        """Bytes and write requests so far; what waits in memory is written first."""
        _run("sync", "--file-system", self._mount)
        fields = Path(f"/sys/block/{Path(self._device).name}/stat").read_text().split()
        return int(fields[SECTORS]) * SECTOR_BYTES, int(fields[REQUESTS])

    def remove(self) -> None:
        """Unmount it."""
        _run("umount", self._mount)
        _run("losetup", "--detach", self._device)
