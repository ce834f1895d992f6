"""Programs that the distribution has: found, or installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

from edge_peer.errors import ResourceError

#: Somebody else may be installing something: apt waits so long, in seconds.
LOCK_S = 300


def sudo() -> list[str]:
    """What stands before a command that only root may run."""
    return [] if os.geteuid() == 0 else ["sudo"]


def require_program(find: Callable[[], str | None], package: str, say: Callable[[str], None]) -> tuple[str, bool]:
    """A program, installed with its package if it is missing; and whether it was installed now.

    Args:
        find: Looks for it.
        package: Which Debian and its relatives have it in.
        say: Gets a line before something is installed.

    Raises:
        ResourceError: It is not there and cannot be installed; says what to do.
    """
    program = find()
    if program is not None:
        return program, False
    remedy = f"install it: sudo apt-get install {package}"
    if shutil.which("apt-get") is None:
        raise ResourceError(f"{package} is not installed, and this is no Debian: {remedy.replace('sudo apt-get', '')}")
    prefix = sudo()
    if prefix and shutil.which("sudo") is None:
        raise ResourceError(
            f"{package} is not installed, and there is no sudo: as root, {remedy[len('install it: sudo ') :]}"
        )
    say(f"installing {package} (apt-get)")
    apt = ["apt-get", "-o", f"DPkg::Lock::Timeout={LOCK_S}"]
    install = [*apt, "install", "--yes", "--no-install-recommends", package]
    for command in (install, [*apt, "update"], install):
        done = subprocess.run(  # noqa: S603 - the command is ours
            # sudo drops the environment, and nobody is there to answer a question.
            [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        program = find()
        if program is not None:
            return program, True
    raise ResourceError(f"{package} could not be installed ({done.stderr.strip()[-300:]}); {remedy}")
