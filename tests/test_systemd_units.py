"""The unit files: as hardened as we say, understood by this machine's systemd, and of one mind with the daemon."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_peer.shell.daemon import NAME_TAKEN

FOLDER = Path(__file__).parent.parent / "edge_peer" / "systemd"
DROP_INS = ("jetson.conf", "keras.conf", "backoff.conf")
EXPOSURE_MAX = 3.0
#: The release of systemd that brought RestartSteps.
BACK_OFF_SINCE = 254


def analyze(*arguments: str) -> str:
    """Run systemd-analyze, from the package `systemd`, which need not be what started this machine."""
    if shutil.which("systemd-analyze") is None:
        assert os.geteuid() == 0, "systemd-analyze is missing: sudo apt-get install systemd"
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "systemd"], check=True)
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)
    return done.stdout + done.stderr


def installed(folder: Path, unit: str, *drop_ins: str) -> Path:
    """A unit as it is on a board, but for the program, which is not here."""
    path = folder / unit
    path.write_text(re.sub("ExecStart=.*", "ExecStart=/bin/true", (FOLDER / unit).read_text()))
    for name in drop_ins:
        (folder / f"{unit}.d").mkdir(exist_ok=True)
        shutil.copy(FOLDER / "edge-peer.service.d" / name, folder / f"{unit}.d" / name)
    return path


def settings(path: Path) -> dict[str, str]:
    """Keys of a unit file; what is given several times is joined."""
    found: dict[str, str] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE):
        found[key] = f"{found[key]} {value}" if key in found else value
    return found


@pytest.mark.parametrize("unit", ["edge-peer.service", "edge-peer@.service"])
@pytest.mark.parametrize("drop_ins", [(), ("jetson.conf",), ("keras.conf",), ("jetson.conf", "keras.conf")])
def test_exposure(tmp_path: Path, unit: str, drop_ins: tuple[str, ...]) -> None:
    said = analyze("security", "--offline=true", "--no-pager", str(installed(tmp_path, unit, *drop_ins)))
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert level is not None, said
    assert float(level[1]) <= EXPOSURE_MAX


@pytest.mark.parametrize("unit", ["edge-peer.service", "edge-peer@one.service"])
def test_systemd_understands_every_line(tmp_path: Path, unit: str) -> None:
    version = int(re.findall(r"systemd (\d+)", analyze("--version"))[0])
    drop_ins = DROP_INS if version >= BACK_OFF_SINCE else DROP_INS[:-1]
    template = re.sub("@.*", "@.service", unit)
    installed(tmp_path, template, *drop_ins)
    if unit != template:
        shutil.copy(tmp_path / template, tmp_path / unit)
    said = analyze("verify", "--recursive-errors=no", str(tmp_path / unit))
    assert [line for line in said.splitlines() if "edge-peer" in line or str(tmp_path) in line] == []


def test_what_it_does_not_understand_is_found(tmp_path: Path) -> None:
    path = installed(tmp_path, "edge-peer.service")
    path.write_text(path.read_text().replace("WatchdogSec", "WatchdogSecs"))
    assert "WatchdogSecs" in analyze("verify", "--recursive-errors=no", str(path))


def test_the_template_is_the_same_but_for_its_name() -> None:
    one, several = settings(FOLDER / "edge-peer.service"), settings(FOLDER / "edge-peer@.service")
    assert {key for key in one | several if one.get(key) != several.get(key)} == {
        "Description",
        "ExecStart",
        "RuntimeDirectory",
        "StateDirectory",
        "WorkingDirectory",
    }
    assert several["ExecStart"] == one["ExecStart"].replace("/config.toml", "/%i.toml")
    for key in ("RuntimeDirectory", "StateDirectory", "WorkingDirectory"):
        assert several[key] == one[key] + "-%i"


def test_what_a_restart_cannot_mend_is_not_restarted() -> None:
    unit = settings(FOLDER / "edge-peer.service")
    assert unit["Restart"] == "on-failure"
    assert unit["RestartPreventExitStatus"].split() == ["2", str(NAME_TAKEN)]
    assert unit["StartLimitIntervalSec"] == "0"


def test_only_what_the_oldest_systemd_does_not_know_stands_apart() -> None:
    assert "RestartSteps" not in settings(FOLDER / "edge-peer.service")
    backing_off = settings(FOLDER / "edge-peer.service.d/backoff.conf")
    assert set(backing_off) == {"RestartSec", "RestartSteps", "RestartMaxDelaySec"}


@pytest.mark.parametrize("name", ["jetson.conf", "keras.conf"])
def test_backends_that_make_machine_code_may(name: str) -> None:
    assert settings(FOLDER / "edge-peer.service")["MemoryDenyWriteExecute"] == "yes"
    assert settings(FOLDER / "edge-peer.service.d" / name)["MemoryDenyWriteExecute"] == "no"


def test_every_file_goes_along_with_the_package() -> None:
    pyproject = (FOLDER.parent.parent / "pyproject.toml").read_text()
    line = re.search(r"^edge_peer = (\[.*\])$", pyproject, re.MULTILINE)
    assert line is not None
    packed = {path for pattern in re.findall(r'"([^"]+)"', line[1]) for path in FOLDER.parent.glob(pattern)}
    assert {path for path in FOLDER.rglob("*") if path.is_file()} <= packed
