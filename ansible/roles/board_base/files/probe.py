"""Say as one JSON object what kind of board this is. Runs on the board, with its Python, which may be an old one."""

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import time


def first_line(path):
    """The first line of a file, without the zero that ends a text of the device tree; empty if it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.readline().strip("\0\n ")
    except OSError:
        return ""


def machine():
    """Of the user land: a 64-bit kernel may run a 32-bit one, as older Raspberry Pi systems do."""
    name = platform.machine()
    if struct.calcsize("P") == 4:
        return {"aarch64": "armv7l", "x86_64": "i686"}.get(name, name)
    return name


def device():
    """Pi, jetson or generic, as the device tree says."""
    model = first_line("/proc/device-tree/model")
    if model.startswith("Raspberry Pi"):
        return "pi"
    if "Jetson" in model or "nvidia" in first_line("/proc/device-tree/compatible"):
        return "jetson"
    return "generic"


def free_mb(path):
    """Free megabytes for root's files below a folder that need not be there yet."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free // 1000000


def systemd():
    """The version of the systemd that runs the board; 0: none does."""
    if not os.path.isdir("/run/systemd/system"):
        return 0
    words = subprocess.check_output(["systemctl", "--version"]).decode("ascii", "replace").split()
    return int("".join(it for it in words[1] if it.isdigit()) or 0)


glibc = platform.libc_ver()
json.dump(
    {
        "clock_s": time.time(),
        "device": device(),
        "disk_free_mb": min(free_mb("/opt/edge-peer"), free_mb("/var/lib/edge-peer")),
        "glibc": glibc[1] if glibc[0] == "glibc" else "",
        "machine": machine(),
        "model": first_line("/proc/device-tree/model"),
        "python": "%d.%d" % sys.version_info[:2],
        "python_path": sys.executable,
        "python_minor": sys.version_info[1] if sys.version_info[0] == 3 else -1,
        "systemd": systemd(),
    },
    sys.stdout,
    sort_keys=True,
)
