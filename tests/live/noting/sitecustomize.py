"""Have a Python process note each file that it writes: put this folder into PYTHONPATH, and the notes' into NOTES.

Python loads a module of this name by itself when it starts. An audit hook cannot be missed as a watch on a folder can,
which is new when the first file in it is written already.
"""

import os
import sys


def _note() -> None:
    path = os.environ.get("NOTES")
    if path is None:
        return
    notes = os.open(f"{path}.{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def hook(event: str, arguments: tuple) -> None:  # type: ignore[type-arg]
        if event == "os.rename":
            # Whole files are written under another name first.
            os.write(notes, f"{os.fspath(arguments[1])}\n".encode())
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_APPEND:
            os.write(notes, f"{os.fspath(arguments[0])}\n".encode())

    sys.addaudithook(hook)


_note()
