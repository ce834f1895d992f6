"""Which files of a folder are written, and how often: told by the kernel (inotify), so the writer is not disturbed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from pathlib import Path

IN_MODIFY = 0x00000002
#: Only so that the kernel does not take two writes, one after the other, for one: it joins what is the same.
IN_CLOSE_WRITE = 0x00000008
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_ISDIR = 0x40000000
IN_Q_OVERFLOW = 0x00004000
IN_NONBLOCK = os.O_NONBLOCK
HEADER = struct.Struct("iIII")
BUFFER_BYTES = 1 << 20


class Watch:
    """Watches a folder and all folders in it, from its making on.

    Attributes:
        replaced: How often a file of this path was put in place whole, under its name, by renaming.
        replaced_bytes: How many bytes these had.
        modified: How often a file of this path was written to where it is.
    """

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._add = libc.inotify_add_watch
        self._descriptor = libc.inotify_init1(IN_NONBLOCK)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._folders: dict[int, Path] = {}
        self.replaced: dict[Path, int] = {}
        self.replaced_bytes: dict[Path, int] = {}
        self.modified: dict[Path, int] = {}
        self._watch(folder)

    def close(self) -> None:
        """End it."""
        os.close(self._descriptor)

    def clear(self) -> None:
        """Forget what has been so far."""
        self.take()
        self.replaced.clear()
        self.replaced_bytes.clear()
        self.modified.clear()

    def _watch(self, folder: Path) -> None:
        number = self._add(self._descriptor, str(folder).encode(), IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE)
        if number < 0:
            # It was removed, or renamed and is watched under that name.
            return
        self._folders[number] = folder
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if path.is_dir():
                    self._watch(path)

    def take(self) -> None:
        """Take in what has happened; raises OSError where so much has that some is lost."""
        while True:
            try:
                content = os.read(self._descriptor, BUFFER_BYTES)
            except BlockingIOError:
                return
            place = 0
            while place < len(content):
                number, mask, _, length = HEADER.unpack_from(content, place)
                name = content[place + HEADER.size : place + HEADER.size + length].rstrip(b"\0").decode()
                place += HEADER.size + length
                if mask & IN_Q_OVERFLOW:
                    raise OSError("more was written than the kernel tells: take more often")
                if number in self._folders:
                    self._happened(self._folders[number] / name, mask)

    def _happened(self, path: Path, mask: int) -> None:
        if path.parent.name.endswith(".new"):
            # It counts once its folder is in place.
            return
        if mask & IN_ISDIR:
            self._watch(path)
            if mask & IN_MOVED_TO:
                # A folder that was put in place whole.
                for inside in path.rglob("*"):
                    self._replaced(inside)
        elif mask & IN_MOVED_TO:
            self._replaced(path)
        elif mask & IN_MODIFY and not path.name.endswith(".new"):
            self.modified[path] = self.modified.get(path, 0) + 1

    def _replaced(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            if path.is_file():
                self.replaced[path] = self.replaced.get(path, 0) + 1
                self.replaced_bytes[path] = self.replaced_bytes.get(path, 0) + path.stat().st_size
