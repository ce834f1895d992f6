"""Where Fashion-MNIST is found on this machine, or fetched from.

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
2017 (arXiv:1708.07747), MIT licence.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from data_shards.errors import DataError
from data_shards.idx import read_content

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
UPSTREAM = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
FETCH_TIMEOUT_S = 60
#: SHA-256 of the unzipped contents: distributions pack the same bytes with other gzip headers.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def cache_folder() -> Path:
    """Where fetched files are kept: $XDG_CACHE_HOME/edge-peer/fashion-mnist."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-peer" / "fashion-mnist"


def locate(say: Callable[[str], None], folder: Path | None = None) -> Path:
    """A folder with the four files: the user's, the installed package, an earlier fetch, the package, or upstream.

    Whoever reads them checks their sums; what is fetched is checked before it is kept, so that a damaged download is
    not found again at the next start, and the next source gets its turn.

    Args:
        say: Told what is going on.
        folder: The user's; no other is looked at then.

    Raises:
        DataError: None of them could be had; says what each answered.
    """
    if folder is not None:
        return folder
    cache = cache_folder()
    for known in (INSTALLED, cache):
        if all(find(known, name) for name in SHA256):
            return known
    say(f"fetching Fashion-MNIST into {cache}")
    problems = []
    for fetch in (_from_package, _from_upstream):
        try:
            fetch(cache, say)
        except (OSError, subprocess.SubprocessError, DataError) as error:
            problems.append(f"  {fetch.__doc__} {error}")
        else:
            return cache
    raise DataError(
        "Fashion-MNIST cannot be had:\n" + "\n".join(problems) + f"\nremedy: apt-get install {PACKAGE}, or pass "
        "--dataset fashion-mnist:FOLDER with its four files"
    )


def find(folder: Path, name: str) -> Path | None:
    """The file of this name, gzipped or not."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    return None


def _from_package(cache: Path, say: Callable[[str], None]) -> None:
    """The distribution's package, unpacked without root:"""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise DataError("no apt-get and dpkg-deb on this machine")
    with tempfile.TemporaryDirectory() as folder:
        # apt fetches as its own user where it can, and that user must be able to enter the folder.
        Path(folder).chmod(0o755)
        say(f"  apt-get download {PACKAGE} (31 MB)")
        command = ["apt-get", "download", PACKAGE]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)  # noqa: S603
        packages = sorted(Path(folder).glob("*.deb"))
        if done.returncode or not packages:
            last = done.stderr.strip().splitlines()[-1:] or ["no answer"]
            raise DataError(f"{' '.join(command)}: {last[0]} (run `apt-get update` first)")
        subprocess.run(["dpkg-deb", "-x", packages[0], folder], check=True, capture_output=True, timeout=120)  # noqa: S603, S607
        for name in SHA256:
            _keep(Path(folder) / INSTALLED.relative_to("/") / f"{name}.gz", cache / f"{name}.gz")


def _from_upstream(cache: Path, say: Callable[[str], None]) -> None:
    """The upstream address:"""
    context = ssl.create_default_context()
    for name in SHA256:
        address = f"{UPSTREAM}/{name}.gz"
        say(f"  {address}")
        try:
            with urllib.request.urlopen(address, timeout=FETCH_TIMEOUT_S, context=context) as answer:  # noqa: S310
                content = answer.read(1 << 26)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{address}: {error}") from None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.gz"
            path.write_bytes(content)
            _keep(path, cache / path.name)


def _keep(source: Path, target: Path) -> None:
    found, expected = hashlib.sha256(read_content(source)).hexdigest(), SHA256[source.stem]
    if found != expected:
        raise DataError(f"{source.name} has sha256 {found[:16]}..., expected {expected[:16]}...")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, temporary)
    temporary.replace(target)
