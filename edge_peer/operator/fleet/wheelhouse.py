"""What boards without internet install from: one folder of wheels for each kind of board, from the locks.

    python -m edge_peer.operator.fleet.wheelhouse --out fleet/wheelhouse x86_64-cp311-glibc2.36 aarch64-cp313-glibc2.41

A kind is a processor, a Python version and a C library. Its folder has the wheels of `requirements/board-*.lock` that
fit it, this project itself as a wheel, all of them in `wheels.tar`, `requirements.txt` with the hash of every one that
is to be installed, and `wheelhouse.json`, which says what is in it. A second call gets and builds only what has
changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.markers import Marker

from edge_peer import __version__
from edge_peer.errors import ResourceError

ROOT = Path(__file__).resolve().parents[3]
#: What goes into the project's own wheel, and what its content depends on.
SOURCES = ("aggregator_core", "data_shards", "edge_peer", "pyproject.toml", "README.md", "LICENSE")
TARGET = re.compile(
    r"(?P<machine>[a-z0-9_]+)-cp3(?P<minor>\d+)-glibc2\.(?P<glibc>\d+)(-(?P<interpreter>litert|tflite))?"
)
#: LiteRT has no wheels for 32-bit boards.
INTERPRETERS = {"x86_64": "litert", "aarch64": "litert", "armv7l": "tflite"}
#: There are no wheels of numpy for 32-bit ARM; the distribution has it.
NUMPY_OF_THE_SYSTEM = frozenset({"armv7l"})
PYTHON_MINORS = range(10, 14)
#: The oldest C library that PEP 600 has a tag for, apart from those of 2010 and 2014.
GLIBC_OLDEST = 17
REQUIREMENT = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))?(?= --hash| *$)")
HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
#: 1980-01-01, the first day that a zip file can name: the same sources make the same wheel.
EPOCH = "315532800"
MANIFEST = "wheelhouse.json"
REQUIREMENTS = "requirements.txt"
#: All wheels in one file, for a board that has none yet: a file costs it more time than its bytes do.
BUNDLE = "wheels.tar"


class WheelhouseError(ResourceError):
    """The wheels of a kind of board cannot be had; the message says which, and what to do."""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A kind of board.

    Attributes:
        machine: Of its user land, as `platform.machine()` says: x86_64, aarch64 or armv7l.
        python_minor: 11 is Python 3.11.
        glibc_minor: 36 is glibc 2.36; wheels for an older one fit, too.
        interpreter: litert or tflite.
    """

    machine: str
    python_minor: int
    glibc_minor: int
    interpreter: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Such as `aarch64-cp313-glibc2.41`, with `-tflite` at the end for another interpreter than the usual one.

        Raises:
            WheelhouseError: There can be no wheelhouse for it.
        """
        found = TARGET.fullmatch(text)
        if found is None:
            raise WheelhouseError(f"{text[:80]!r} is no kind of board; write it such as aarch64-cp313-glibc2.41")
        machine, minor = found["machine"], int(found["minor"])
        if machine not in INTERPRETERS:
            raise WheelhouseError(
                f"{text}: no interpreter has wheels for {machine}; there are some for {', '.join(sorted(INTERPRETERS))}"
            )
        interpreter = found["interpreter"] or INTERPRETERS[machine]
        if minor not in PYTHON_MINORS:
            raise WheelhouseError(f"{text}: Python 3.{minor}; a board needs Python 3.10 to 3.13")
        if interpreter == "tflite" and minor > 11:
            raise WheelhouseError(
                f"{text}: tflite-runtime has wheels for Python 3.10 and 3.11 only; install a system with one of these "
                "(Debian 12 has 3.11), or on a 64-bit board leave the interpreter to be litert"
            )
        if interpreter == "litert" and machine == "armv7l":
            raise WheelhouseError(f"{text}: LiteRT has no wheels for 32-bit boards; take tflite")
        return cls(machine, minor, int(found["glibc"]), interpreter)

    @property
    def folder(self) -> str:
        """Name of its folder in the wheelhouse."""
        usual = INTERPRETERS[self.machine] == self.interpreter
        return f"{self.machine}-cp3{self.python_minor}{'' if usual else f'-{self.interpreter}'}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """Tags of the wheels that fit, the newest first (PEP 600)."""
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc_minor, GLIBC_OLDEST - 1, -1)]
        return (*tags, f"manylinux2014_{self.machine}", f"manylinux2010_{self.machine}", f"linux_{self.machine}")

    @property
    def environment(self) -> dict[str, str]:
        """What the markers of a lock are evaluated with (PEP 508); pip would take this machine's values."""
        version = f"3.{self.python_minor}"
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{version}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{version}.0",
            "python_version": version,
            "sys_platform": "linux",
        }


@dataclass(frozen=True, slots=True)
class Requirement:
    """One pinned package: only files with one of these hashes are it."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([f"{self.name}=={self.version}", *(f"--hash={it}" for it in self.hashes)])


def pinned(lock: str, target: Target) -> list[Requirement]:
    """The packages of a lock's text that a kind of board gets.

    Raises:
        WheelhouseError: A line of the lock is of no known form.
    """
    text = re.sub(r" *\\\n *", " ", re.sub(r"(?m)^ *#.*\n?", "", lock))
    requirements = []
    for line in filter(None, (it.strip() for it in text.splitlines())):
        found = REQUIREMENT.match(line)
        if found is None or not HASH.search(line):
            raise WheelhouseError(f"{line[:80]!r} in a lock is no package with version and hashes; run make lock")
        if found["marker"] and not Marker(found["marker"]).evaluate(target.environment):
            continue
        if found["name"] == "numpy" and target.machine in NUMPY_OF_THE_SYSTEM:
            continue
        requirements.append(Requirement(found["name"], found["version"], tuple(HASH.findall(line))))
    return requirements


def release_of(root: Path) -> str:
    """The name of what is installed: the version, and a digest of the sources and of the locks."""
    digest = hashlib.sha256()
    for path in [*_sources(root), *sorted((root / "requirements").glob("board-*.lock"))]:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return f"{__version__}-{digest.hexdigest()[:10]}"


def _sources(root: Path) -> list[Path]:
    found: list[Path] = []
    for name in SOURCES:
        path = root / name
        inside = path.rglob("*") if path.is_dir() else [path]
        found += [it for it in inside if it.is_file() and "__pycache__" not in it.parts]
    return sorted(found)


def build_own_wheel(root: Path, out: Path) -> Path:
    """Build this project's wheel out of a copy, so that nothing of earlier builds gets into it.

    Raises:
        WheelhouseError: setuptools cannot do it; quotes it.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "source"
        for path in _sources(root):
            target = copy / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        done = _pip(
            ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, str(copy)],
            {"SOURCE_DATE_EPOCH": EPOCH},
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise WheelhouseError(f"the project's wheel cannot be built: {_why(done)}")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheels[0], out / wheels[0].name))


def fill(target: Target, root: Path, out: Path, own: Path, release: str) -> bool:
    """Make the folder of one kind of board, or bring it up to date; returns whether anything was to do.

    Raises:
        WheelhouseError: A wheel cannot be had.
    """
    folder = out / target.folder
    wanted = pinned((root / "requirements" / f"board-{target.interpreter}.lock").read_text(encoding="utf-8"), target)
    ours = Requirement("edge-peer", __version__, (f"sha256:{_sha256(own)}",))
    # pip is brought to run it, not to install it.
    text = "".join(f"{it}\n" for it in [*(it for it in wanted if it.name != "pip"), ours])
    manifest = _read(folder / MANIFEST)
    if (
        manifest.get("release") == release
        and manifest.get("glibc") == f"2.{target.glibc_minor}"
        and _text(folder / REQUIREMENTS) == text
        and (folder / BUNDLE).is_file()
        and all(_is(folder / name, sha256) for name, sha256 in manifest.get("wheels", {}).items())
    ):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        fresh = Path(name)
        _download(target, wanted, fresh, folder)
        shutil.copyfile(own, fresh / own.name)
        names = sorted(it.name for it in fresh.iterdir() if it.suffix == ".whl")
        for path in folder.glob("*.whl"):
            if path.name not in names:
                path.unlink()
        for wheel in names:
            (fresh / wheel).chmod(0o644)
            (fresh / wheel).replace(folder / wheel)
    (folder / REQUIREMENTS).write_text(text, encoding="utf-8")
    with tarfile.open(folder / BUNDLE, "w") as bundle:
        for wheel in names:
            bundle.add(folder / wheel, wheel, filter=_owned_by_root)
    made = {
        "release": release,
        "target": target.folder,
        "glibc": f"2.{target.glibc_minor}",
        "interpreter": target.interpreter,
        "pip": next(it for it in names if it.startswith("pip-")),
        "system_packages": ["python3-numpy"] if target.machine in NUMPY_OF_THE_SYSTEM else [],
        "wheels": {wheel: _sha256(folder / wheel) for wheel in names},
    }
    (folder / MANIFEST).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return True


def _download(target: Target, wanted: Sequence[Requirement], into: Path, had: Path) -> None:
    requirements = into / REQUIREMENTS
    requirements.write_text("".join(f"{it}\n" for it in wanted), encoding="utf-8")
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation", "cp"]
    options += ["--python-version", f"3.{target.python_minor}"]
    for platform in target.platforms:
        options += ["--platform", platform]
    done = _pip(
        ["download", *options, "--find-links", str(had), "--dest", str(into), "--requirement", str(requirements)]
    )
    requirements.unlink()
    if done.returncode:
        raise WheelhouseError(
            f"{target.folder}: a wheel cannot be had: {_why(done)}. This machine must reach a package index (pip "
            f"config), and the package must have a wheel for {target.machine}, Python 3.{target.python_minor} and "
            f"glibc 2.{target.glibc_minor} or older"
        )


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _pip(arguments: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    return subprocess.run(  # noqa: S603 - the command is ours
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def _why(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
    return lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with code {done.returncode}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and _sha256(path) == sha256


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _read(path: Path) -> dict[str, Any]:
    """What a manifest says; nothing, if it is not whole."""
    try:
        found = json.loads(_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("wheels"), dict) else {}


def distinct(targets: Iterable[Target]) -> list[Target]:
    """One for each folder: of several C libraries the oldest, whose wheels fit all."""
    found: dict[str, Target] = {}
    for target in targets:
        held = found.setdefault(target.folder, target)
        if target.glibc_minor < held.glibc_minor:
            found[target.folder] = replace(held, glibc_minor=target.glibc_minor)
    return [found[name] for name in sorted(found)]


def build(targets: Iterable[Target], root: Path, out: Path, say: Callable[[str], None]) -> str:
    """Make or renew the wheelhouse; returns the release's name.

    Raises:
        WheelhouseError: A wheel cannot be had or built.
    """
    release = release_of(root)
    own = out / "own" / release
    wheels = list(own.glob("*.whl"))
    if len(wheels) != 1:
        say(f"building the wheel of release {release}")
        shutil.rmtree(out / "own", ignore_errors=True)
        wheels = [build_own_wheel(root, own)]
    for target in distinct(targets):
        say(f"{target.folder}: {'filled' if fill(target, root, out, wheels[0], release) else 'as it was'}")
    return release


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    it = argparse.ArgumentParser(
        prog="python -m edge_peer.operator.fleet.wheelhouse",
        description="Get the wheels that boards without internet install from.",
        epilog="exit codes: 0 done, 2 a wheel cannot be had",
    )
    it.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the wheelhouse, such as fleet/wheelhouse"
    )
    it.add_argument(
        "targets", nargs="+", metavar="KIND", help="such as aarch64-cp313-glibc2.41 or armv7l-cp311-glibc2.36"
    )
    return it


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        targets = [Target.parse(text) for text in options.targets]
        release = build(targets, ROOT, options.out, lambda text: print(text, flush=True))
    except (WheelhouseError, OSError) as error:
        print(f"wheelhouse: {error}", file=sys.stderr)
        return 2
    print(f"release {release}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
