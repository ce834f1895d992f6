"""The libraries in `vendor/`: which they are, and how they came there.

`vendor/versions.json` names each npm package with its version, its licence, and the integrity that npm's registry
states for it. `python -m edge_peer.operator.dashboard.vendored` fetches these packages with npm, refuses one of another
integrity, puts their files into `vendor/`, and writes the files' digests beside them, which a test compares.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from edge_peer.errors import EdgePeerError

FOLDER = Path(__file__).resolve().parent / "vendor"
VERSIONS = FOLDER / "versions.json"
DIGESTS = FOLDER / "SHA256SUMS"


class VendorError(EdgePeerError):
    """A package cannot be had, or is another than the one that is named."""


def packages() -> dict[str, Any]:
    """What `versions.json` says, by package."""
    read: dict[str, Any] = json.loads(VERSIONS.read_text())
    return read


def digests(folder: Path = FOLDER) -> str:
    """The files' digests, as `sha256sum` writes them."""
    names = sorted(name for it in packages().values() for name in it["files"])
    return "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)


def fetch(name: str, version: str, integrity: str, folder: Path) -> Path:
    """A package's archive, by npm; raises VendorError."""
    done = subprocess.run(  # noqa: S603 - the command is ours
        ["npm", "pack", "--silent", f"{name}@{version}"],  # noqa: S607 - npm is where its user has it
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise VendorError(f"npm pack {name}@{version}: {done.stderr.strip()[-300:]}")
    archive = folder / done.stdout.split()[-1]
    found = f"sha512-{base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()}"
    if found != integrity:
        raise VendorError(f"{name}@{version} has integrity {found}, {VERSIONS.name} says {integrity}: look why")
    return archive


def main() -> int:
    """Fetch all; returns the exit code."""
    try:
        with tempfile.TemporaryDirectory() as temporary:
            for name, it in packages().items():
                archive = fetch(name, it["version"], it["integrity"], Path(temporary))
                with tarfile.open(archive) as tar:
                    for target, source in it["files"].items():
                        file = tar.extractfile(f"package/{source}")
                        assert file is not None
                        (FOLDER / target).write_bytes(file.read())
                print(f"{name} {it['version']}: {', '.join(it['files'])}")
        DIGESTS.write_text(digests())
    except (OSError, EdgePeerError) as error:
        print(f"vendored: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
