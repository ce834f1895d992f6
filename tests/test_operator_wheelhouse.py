"""Wheels for boards without internet: the right ones, pinned by hashes, and nothing done twice."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from edge_peer import __version__
from edge_peer.operator.fleet.wheelhouse import (
    BUNDLE,
    MANIFEST,
    REQUIREMENTS,
    ROOT,
    SOURCES,
    Target,
    WheelhouseError,
    build,
    build_own_wheel,
    distinct,
    main,
    pinned,
    release_of,
)

#: The kind of board with the smallest wheels.
SMALL = "armv7l-cp311-glibc2.36"


def names(target: Target) -> dict[str, str]:
    lock = (ROOT / "requirements" / f"board-{target.interpreter}.lock").read_text()
    return {it.name: it.version for it in pinned(lock, target)}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("aarch64", "no kind of board"),
        ("aarch64-cp311-musl1.2", "no kind of board"),
        ("riscv64-cp313-glibc2.41", "no interpreter has wheels for riscv64"),
        ("aarch64-cp39-glibc2.31", "Python 3.9; a board needs Python 3.10 to 3.13"),
        ("aarch64-cp314-glibc2.42", "Python 3.14; a board needs"),
        ("armv7l-cp313-glibc2.41", "tflite-runtime has wheels for Python 3.10 and 3.11 only"),
        ("armv7l-cp311-glibc2.36-litert", "no wheels for 32-bit boards"),
    ],
)
def test_a_board_that_nothing_can_be_installed_on_is_refused_by_name(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path), text]) == 2
    assert why in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_64_bit_boards_get_litert_and_32_bit_ones_tflite_with_the_systems_numpy() -> None:
    wide = names(Target.parse("aarch64-cp313-glibc2.41"))
    assert {"ai-edge-litert", "numpy", "paho-mqtt", "pip", "safetensors"} <= set(wide)
    assert "tomli" not in wide
    assert "tflite-runtime" not in wide
    narrow = names(Target.parse(SMALL))
    assert {"tflite-runtime", "paho-mqtt", "pip", "safetensors"} == set(narrow)
    chosen = names(Target.parse("x86_64-cp311-glibc2.36-tflite"))
    assert int(chosen["numpy"].partition(".")[0]) < 2
    assert Target.parse("x86_64-cp311-glibc2.36-tflite").folder == "x86_64-cp311-tflite"


def test_markers_are_those_of_the_board_and_not_of_this_machine() -> None:
    versions = {minor: names(Target.parse(f"x86_64-cp3{minor}-glibc2.36")) for minor in range(10, 14)}
    assert "tomli" in versions[10]
    assert "tomli" not in versions[11]
    assert versions[10]["numpy"] != versions[13]["numpy"]
    assert not any("colorama" in it for it in versions.values()), "which only Windows needs"


def test_a_board_gets_the_versions_that_are_tested_here() -> None:
    def versions(lock: str) -> set[str]:
        return {
            line.partition(" \\")[0]
            for line in (ROOT / "requirements" / f"{lock}.lock").read_text().splitlines()
            if line.partition("==")[0] in {"ai-edge-litert", "numpy", "paho-mqtt", "safetensors", "tflite-runtime"}
        }

    assert versions("board-litert") <= versions("demo")
    assert versions("board-tflite") <= versions("tflite")
    assert len(versions("board-litert")) >= 4


def test_a_lock_without_hashes_is_refused() -> None:
    target = Target.parse(SMALL)
    with pytest.raises(WheelhouseError, match=r"'paho-mqtt==2.2.0' in a lock"):
        pinned("paho-mqtt==2.2.0\n", target)
    with pytest.raises(WheelhouseError, match="in a lock"):
        pinned("--index-url somewhere\n", target)


def test_wheels_for_the_oldest_c_library_of_a_kind_fit_all() -> None:
    targets = [Target.parse(f"aarch64-cp311-glibc2.{minor}") for minor in (36, 31, 41)] + [Target.parse(SMALL)]
    found = distinct(targets)
    assert [(it.folder, it.glibc_minor) for it in found] == [("aarch64-cp311", 31), ("armv7l-cp311", 36)]
    tags = found[0].platforms
    assert tags[0] == "manylinux_2_31_aarch64"
    assert "manylinux_2_36_aarch64" not in tags
    assert "manylinux2014_aarch64" in tags


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree, which nobody edits in the meantime."""
    root = tmp_path_factory.mktemp("source")
    for name in (*SOURCES, "requirements"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, root / name)
    return root


def test_the_same_sources_make_the_same_wheel_and_the_same_release(source: Path, tmp_path: Path) -> None:
    wheels = [build_own_wheel(source, tmp_path / name) for name in ("first", "second")]
    assert wheels[0].name == f"edge_peer-{__version__}-py3-none-any.whl"
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    inside = zipfile.ZipFile(wheels[0]).namelist()
    assert "edge_peer/__main__.py" in inside
    assert "edge_peer/protocol/peer.py" in inside
    assert not any("__pycache__" in name or name.startswith("tests") for name in inside)
    release = release_of(source)
    assert release == release_of(source)
    assert release.startswith(f"{__version__}-")
    other = tmp_path / "other"
    shutil.copytree(source, other)
    (other / "edge_peer" / "errors.py").write_text("# other\n")
    assert release_of(other) != release
    shutil.copyfile(source / "edge_peer" / "errors.py", other / "edge_peer" / "errors.py")
    assert release_of(other) == release
    with (other / "requirements" / "board-tflite.lock").open("a") as lock:
        lock.write("# other\n")
    assert release_of(other) != release


def test_a_wheelhouse_is_whole_and_filled_once(source: Path, tmp_path: Path) -> None:
    said: list[str] = []
    release = build([Target.parse(SMALL)], source, tmp_path, said.append)
    folder = tmp_path / "armv7l-cp311"
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["release"] == release
    assert manifest["system_packages"] == ["python3-numpy"]
    assert sorted(manifest["wheels"]) == sorted(path.name for path in folder.glob("*.whl"))
    with tarfile.open(folder / BUNDLE) as bundle:
        assert {(it.name, it.mode, it.uid) for it in bundle} == {(name, 0o644, 0) for name in manifest["wheels"]}
    requirements = (folder / REQUIREMENTS).read_text()
    for name, sha256 in manifest["wheels"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
        installed = name != manifest["pip"]
        assert (f"--hash=sha256:{sha256}" in requirements) == installed, f"{name} could not be installed"
    # pip runs out of its own wheel, as on a board: nothing else is installed there.
    done = subprocess.run(
        [sys.executable, "-I", f"{folder / manifest['pip']}/pip", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    said.clear()
    assert build([Target.parse(SMALL)], source, tmp_path, said.append) == release
    assert said == ["armv7l-cp311: as it was"]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times

    damaged = folder / manifest["pip"]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (folder / "left-1-py3-none-any.whl").write_bytes(b"of an earlier release")
    build([Target.parse(SMALL)], source, tmp_path, said.append)
    assert said[-1] == "armv7l-cp311: filled"
    assert hashlib.sha256(damaged.read_bytes()).hexdigest() == manifest["wheels"][damaged.name]
    assert not (folder / "left-1-py3-none-any.whl").exists()


def test_a_package_without_a_fitting_wheel_is_named(source: Path, tmp_path: Path) -> None:
    # A C library older than any wheel's.
    target = Target.parse("x86_64-cp311-glibc2.17")
    with pytest.raises(WheelhouseError, match=r"x86_64-cp311: a wheel cannot be had: .*==.*glibc 2.17 or older"):
        build([target], source, tmp_path, lambda text: None)
    assert not (tmp_path / "x86_64-cp311" / MANIFEST).exists()
