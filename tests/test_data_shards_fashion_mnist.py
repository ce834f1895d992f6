"""Where Fashion-MNIST is looked for, in which order, and that no other bytes are ever taken for it.

The four files are small ones; their sums stand in for the real ones. Folders, the package (a real .deb, unpacked by
dpkg-deb) and the HTTPS server are real, only small and on this machine; apt-get is a program of the test.
"""

from __future__ import annotations

import functools
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from idx_files import NAMES, contents, digests, write_folder

from data_shards import fashion_mnist
from data_shards.datasets import load_dataset
from data_shards.errors import DataError

FILES = contents(seed=5)
OTHER = contents(seed=6)
#: For the test's own use of programs; the code under test sees only those that the test puts in place.
PROGRAMS = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{os.defpath}"}


class Places:
    """The machine as the test arranges it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.installed = root / "usr/share/datasets/fashion-mnist"
        self.cache = root / "cache/edge-peer/fashion-mnist"
        self.programs = root / "bin"
        self.served = root / "served"
        self.programs.mkdir()
        self.served.mkdir()
        self.said: list[str] = []

    def load(self, where: str = "fashion-mnist") -> bytes:
        return load_dataset(where, say=self.said.append).x_train.tobytes()

    def apt_get(self, script: str) -> None:
        self._program("apt-get", script)
        self._program("dpkg-deb", f'PATH={os.defpath} exec dpkg-deb "$@"')

    def _program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def package(self, files: dict[str, bytes]) -> Path:
        tree = self.root / "package"
        write_folder(tree / self.installed.relative_to("/"), files)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(
            "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\nMaintainer: test <t@example.org>\n"
            "Description: test\n"
        )
        package = self.root / "dataset-fashion-mnist_1_all.deb"
        subprocess.run(["dpkg-deb", "--build", tree, package], check=True, capture_output=True, env=PROGRAMS)
        return package


def expected(files: dict[str, bytes]) -> bytes:
    return files[NAMES[0]][16:]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    it = Places(tmp_path)
    # The dictionary itself is changed, because other modules hold it.
    for name, digest in digests(FILES).items():
        monkeypatch.setitem(fashion_mnist.SHA256, name, digest)
    monkeypatch.setattr(fashion_mnist, "INSTALLED", it.installed)
    monkeypatch.setattr(fashion_mnist, "UPSTREAM", "https://localhost:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(it.programs))
    return it


@pytest.fixture
def upstream(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """An HTTPS server whose certificate this process trusts."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True, env=PROGRAMS)
    handler = functools.partial(QuietHandler, directory=str(places.served))
    server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(fashion_mnist, "UPSTREAM", f"https://localhost:{server.server_address[1]}")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    yield places
    server.shutdown()
    thread.join()
    server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None: ...


@pytest.mark.parametrize("zipped", [True, False])
def test_the_users_folder_comes_first(places: Places, zipped: bool) -> None:
    write_folder(places.installed, OTHER)
    write_folder(places.cache, OTHER)
    folder = write_folder(places.root / "mine", FILES, zipped)
    assert places.load(f"fashion-mnist:{folder}") == expected(FILES)
    assert places.said == []


def test_the_users_folder_is_checked_and_nothing_else_is_taken_instead(places: Places) -> None:
    write_folder(places.installed, FILES)
    folder = write_folder(places.root / "mine", OTHER)
    with pytest.raises(DataError, match=r"mine/train-images-idx3-ubyte\.gz: its content has sha256"):
        places.load(f"fashion-mnist:{folder}")


@pytest.mark.parametrize("folder", ["", "nothing"])
def test_the_users_folder_is_not_there(places: Places, folder: str) -> None:
    with pytest.raises(
        DataError, match=r"name a folder after the colon|nothing: train-images-idx3-ubyte.gz is missing"
    ):
        places.load(f"fashion-mnist:{folder}")


def test_then_the_installed_package(places: Places) -> None:
    write_folder(places.installed, FILES)
    write_folder(places.cache, OTHER)
    assert places.load() == expected(FILES)
    assert places.said == []


def test_the_installed_package_is_checked(places: Places) -> None:
    write_folder(places.installed, OTHER)
    with pytest.raises(DataError, match="its content has sha256"):
        places.load()


def test_then_an_earlier_fetch_which_is_checked(places: Places) -> None:
    write_folder(places.cache, FILES)
    assert places.load() == expected(FILES)
    assert places.said == []
    write_folder(places.cache, OTHER)
    with pytest.raises(DataError, match="delete it and fetch it again"):
        places.load()


def test_then_the_package_is_fetched_and_unpacked_and_kept(places: Places) -> None:
    calls = places.root / "calls"
    places.apt_get(f'echo "$@" >> {calls}; /bin/cp {places.package(FILES)} .')
    assert places.load() == expected(FILES)
    assert calls.read_text() == "download dataset-fashion-mnist\n"
    assert places.load() == expected(FILES)
    assert calls.read_text() == "download dataset-fashion-mnist\n"
    assert sorted(path.name for path in places.cache.iterdir()) == sorted(f"{name}.gz" for name in NAMES)


def test_then_the_upstream_address_and_it_is_kept(upstream: Places) -> None:
    upstream.apt_get("echo 'E: Unable to locate package' >&2; exit 100")
    write_folder(upstream.served, FILES)
    assert upstream.load() == expected(FILES)
    assert sum("https://" in line for line in upstream.said) == 4
    for path in upstream.served.iterdir():
        path.unlink()
    assert upstream.load() == expected(FILES)


def test_a_package_of_other_bytes_is_not_kept_and_upstream_gets_its_turn(upstream: Places) -> None:
    upstream.apt_get(f"/bin/cp {upstream.package(OTHER)} .")
    write_folder(upstream.served, FILES)
    assert upstream.load() == expected(FILES)


def test_upstream_of_other_bytes_is_not_kept(upstream: Places) -> None:
    write_folder(upstream.served, OTHER)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz has sha256 \w+\.\.\., expected"):
        upstream.load()
    assert not upstream.cache.exists()
    write_folder(upstream.served, FILES)
    assert upstream.load() == expected(FILES)


def test_a_page_that_says_sorry_is_not_kept(upstream: Places) -> None:
    for name in NAMES:
        (upstream.served / f"{name}.gz").write_text("<html>please log in</html>")
    with pytest.raises(DataError, match="cannot be read"):
        upstream.load()
    assert not upstream.cache.exists()


def test_an_answer_that_breaks_off(upstream: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(upstream.served, FILES)
    real = QuietHandler.copyfile
    monkeypatch.setattr(QuietHandler, "copyfile", lambda self, source, target: target.write(source.read(20)))
    with pytest.raises(DataError, match=r"The upstream address: .*train-images-idx3-ubyte\.gz: cannot be read"):
        upstream.load()
    monkeypatch.setattr(QuietHandler, "copyfile", real)
    assert upstream.load() == expected(FILES)


def test_a_certificate_that_nobody_vouches_for(upstream: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(upstream.served, FILES)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(DataError, match="CERTIFICATE_VERIFY_FAILED"):
        upstream.load()


def test_nothing_works_and_every_answer_is_told_with_the_remedy(places: Places) -> None:
    places.apt_get("echo 'E: Unable to locate package dataset-fashion-mnist' >&2; exit 100")
    with pytest.raises(DataError) as raised:
        places.load()
    text = str(raised.value)
    assert "apt-get download dataset-fashion-mnist: E: Unable to locate package" in text
    assert "run `apt-get update` first" in text
    assert "The upstream address: https://localhost:9/train-images-idx3-ubyte.gz" in text
    assert "apt-get install dataset-fashion-mnist, or pass --dataset fashion-mnist:FOLDER" in text


def test_no_apt_and_a_package_that_is_none(places: Places) -> None:
    with pytest.raises(DataError, match="no apt-get and dpkg-deb on this machine"):
        places.load()
    places.apt_get("echo nonsense > it.deb")
    with pytest.raises(DataError, match=r"dpkg-deb.*returned non-zero"):
        places.load()


def test_a_cache_that_cannot_be_written_to(places: Places) -> None:
    places.cache.parent.mkdir(parents=True)
    places.cache.write_text("a file where the folder should be")
    places.apt_get(f"/bin/cp {places.package(FILES)} .")
    with pytest.raises(DataError, match="File exists"):
        places.load()


def test_where_the_real_ones_are() -> None:
    """Their sums are right if the demo and the accuracy benchmark run: they read the real files."""
    assert str(fashion_mnist.INSTALLED) == "/usr/share/datasets/fashion-mnist"
    assert fashion_mnist.UPSTREAM.startswith("https://")
