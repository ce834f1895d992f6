"""The machine's own Chromium, installed if it is missing: `python -m tests.live.browser`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

from edge_peer.errors import ResourceError
from edge_peer.operator.local.debian import require_program

#: No connections of its own, and no sandbox for root, who could not have one.
OPTIONS = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    *(("--no-sandbox",) if os.geteuid() == 0 else ()),
)


def require_chromium(say: Callable[[str], None]) -> str:
    """The program, installed from the distribution if it is missing; raises ResourceError."""
    return require_program(lambda: shutil.which("chromium"), "chromium", say)[0]


if __name__ == "__main__":
    try:
        require_chromium(print)
    except ResourceError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
