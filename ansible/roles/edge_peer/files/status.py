"""Say as one JSON object how a peer on this board is: status.py UNIT STATE_DIR PEER CERTIFICATE CURRENT.

Runs on the board as root, with its Python, which may be an old one. What cannot be read is left out.
"""

import csv
import glob
import json
import os
import shutil
import subprocess
import sys

PROPERTIES = (
    "ActiveState",
    "SubState",
    "Result",
    "NRestarts",
    "MainPID",
    "MemoryCurrent",
    "StatusText",
    "UnitFileState",
)


def unit(name):
    """What systemd knows of a unit, by property."""
    asked = ["systemctl", "show", "--property=" + ",".join(PROPERTIES), name]
    said = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    lines = said.decode("utf-8", "replace").splitlines()
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def rss_bytes(pid):
    """Resident memory of a process."""
    with open("/proc/%s/status" % pid) as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))


def text(path):
    """A small file."""
    with open(path, errors="replace") as file:
        return file.read(65536)


def last_row(state_dir, peer):
    """The last whole line of the peer's newest CSV, by column."""
    newest = max(glob.glob(os.path.join(state_dir, "runs", "*", peer + ".csv")), key=os.path.getmtime)
    with open(newest, "rb") as file:
        head = file.readline()
        file.seek(max(len(head), os.path.getsize(newest) - 8192))
        lines = file.read().split(b"\n")[:-1]
    columns, values = csv.reader([it.decode("utf-8", "replace") for it in (head.strip(), lines[-1])])
    return dict(zip(columns, values))


def known(ask, *arguments):
    """What a function says; None if it cannot."""
    try:
        return ask(*arguments)
    except (OSError, ValueError, StopIteration, IndexError):
        return None


def main(name, state_dir, peer, certificate, current):
    """Print it."""
    found = known(unit, name) or {}
    facts = {
        "unit": found,
        "rss_bytes": known(rss_bytes, found.get("MainPID", "0")),
        "disk_free_bytes": known(lambda: shutil.disk_usage(state_dir).free),
        "last_row": known(last_row, state_dir, peer),
        "certificate": known(text, certificate),
        "release": known(lambda: os.path.basename(os.readlink(current))),
    }
    json.dump({key: value for key, value in facts.items() if value is not None}, sys.stdout, sort_keys=True)


main(*sys.argv[1:])
