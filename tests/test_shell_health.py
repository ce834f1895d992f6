"""How the board is, read from files as the kernels of several boards show them, and from garbage."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.protocol.messages import Presence, decode, encode
from edge_peer.protocol.topics import PRESENCE
from edge_peer.shell.health import CALM_S, MARGIN_C, Health, HealthReader, Strain

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
ZONE = "sys/class/thermal/thermal_zone{}/{}"
COOLING = "sys/class/thermal/cooling_device{}/{}"
HWMON = "sys/class/hwmon/hwmon{}/{}"


def board(root: Path, files: dict[str, str]) -> HealthReader:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return HealthReader(root, root)


def test_a_raspberry_pi(tmp_path: Path) -> None:
    reader = board(
        tmp_path,
        {
            ZONE.format(0, "type"): "cpu-thermal\n",
            ZONE.format(0, "temp"): "81240\n",
            THROTTLED: "e0008\n",
            "proc/loadavg": "0.52 0.58 0.59 1/389 12345\n",
            "proc/meminfo": "MemTotal:  948304 kB\nMemFree:  10 kB\nMemAvailable:  612000 kB\n",
        },
    )
    health = reader.read()
    assert health.disk_free_bytes is not None
    assert health.disk_free_bytes > 0
    assert health == Health(81.24, 8, 0.52, 612000 * 1024, health.disk_free_bytes, None)


@pytest.mark.parametrize(
    ("content", "flags"), [("0", 0), ("50005", 5), ("0x50000", 0), ("F", 15), ("", None), ("-1", None), ("hot", None)]
)
def test_the_firmwares_flags_of_now(tmp_path: Path, content: str, flags: int | None) -> None:
    assert board(tmp_path, {THROTTLED: content}).read().throttled == flags


@pytest.mark.parametrize(("alarm", "flags"), [("0", 0), ("1", 1), ("x", None)])
def test_a_raspberry_pi_with_another_kernel_tells_of_its_voltage(tmp_path: Path, alarm: str, flags: int | None) -> None:
    files = {HWMON.format(0, "name"): "cpu_thermal", HWMON.format(1, "name"): "rpi_volt\n"}
    assert board(tmp_path, {**files, HWMON.format(1, "in0_lcrit_alarm"): alarm}).read().throttled == flags


def test_a_jetson(tmp_path: Path) -> None:
    zones = {"AO-therm": 41500, "CPU-therm": 52500, "GPU-therm": 50000, "PMIC-Die": 100000, "iwlwifi": 60000}
    files = {
        **{ZONE.format(number, "type"): name for number, name in enumerate(zones)},
        **{ZONE.format(number, "temp"): str(value) for number, value in enumerate(zones.values())},
        COOLING.format(0, "type"): "pwm-fan",
        COOLING.format(0, "cur_state"): "3",
        COOLING.format(1, "type"): "thermal-cpufreq-0",
        COOLING.format(1, "cur_state"): "0",
        HWMON.format(3, "name"): "soctherm_oc",
        HWMON.format(3, "oc1_event_cnt"): "7",
        HWMON.format(3, "oc2_event_cnt"): "0",
        HWMON.format(3, "oc3_event_cnt"): "37",
        "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
    }
    reader = board(tmp_path, files)
    first = reader.read()
    assert (first.temperature_c, first.throttled, first.power_mode) == (52.5, 0, 2)
    # Events since the last look count, not those since the board was started.
    (tmp_path / HWMON.format(3, "oc3_event_cnt")).write_text("38")
    assert reader.read().throttled == 4
    assert reader.read().throttled == 0
    (tmp_path / COOLING.format(1, "cur_state")).write_text("2")
    assert reader.read().throttled == 2


def test_where_no_zone_is_the_processors_the_hottest_that_is_part_of_the_board_counts(tmp_path: Path) -> None:
    zones = {0: ("acpitz", "27800"), 1: ("battery", "60000"), 2: ("zone", "-256000"), 3: ("off", "")}
    files = {ZONE.format(number, "type"): name for number, (name, _) in zones.items()}
    files.update({ZONE.format(number, "temp"): value for number, (_, value) in zones.items()})
    assert board(tmp_path, files).read().temperature_c == 27.8


def test_a_board_that_tells_nothing(tmp_path: Path) -> None:
    health = HealthReader(tmp_path, tmp_path / "nothing").read()
    assert set(health.numbers()) == {"disk_free_bytes"}
    assert HealthReader(tmp_path / "gone", tmp_path).read() == Health()
    assert Health().numbers() == {}


def test_this_machine() -> None:
    health = HealthReader(Path("/")).read()
    assert health.load_1m is not None
    assert health.load_1m >= 0
    assert health.memory_free_bytes is not None
    assert health.memory_free_bytes > 1 << 20


NAMES = (
    THROTTLED,
    ZONE.format(0, "temp"),
    ZONE.format(0, "type"),
    COOLING.format(0, "type"),
    COOLING.format(0, "cur_state"),
    HWMON.format(0, "name"),
    HWMON.format(0, "in0_lcrit_alarm"),
    HWMON.format(0, "oc1_event_cnt"),
    "proc/loadavg",
    "proc/meminfo",
    "var/lib/nvpmodel/status",
)
#: A file of these bytes, a folder in the place of the file, a link to itself, or a file in the place of its folder.
GARBAGE = (
    st.binary(max_size=80)
    | st.integers().map(lambda it: str(it).encode())
    | st.sampled_from(
        [b"rpi_volt", b"soctherm_oc", b"cpu", b"cpufreq", b"9" * 5000, "٣".encode(), b"pmode:" + b"9" * 400]
        + [b"MemAvailable: " + it for it in (b"-5 kB", b"9" * 400 + b" kB", b"")]
    )
    | st.sampled_from(["folder", "loop", "parent"])
)


@given(st.dictionaries(st.sampled_from(NAMES), GARBAGE))
def test_garbage_never_raises_and_what_is_told_can_be_sent(files: dict[str, bytes | str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, content in sorted(files.items()):
            path = root / name
            if not all(it.is_dir() for it in path.parents if it.exists()):
                continue
            if content == "parent" and not path.parent.exists():
                path.parent.parent.mkdir(parents=True, exist_ok=True)
                path.parent.write_bytes(b"")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif content == "folder":
                path.mkdir()
            else:
                path.symlink_to(path)
        reader = HealthReader(root, root)
        strain = Strain(80.0)
        for now_s in (0.0, 30.0):
            health = reader.read()
            strain.take(health, now_s)
            presence = Presence(session="session", online=True, health=health.numbers())
            assert decode(PRESENCE, encode(presence)) == presence


# ---------------------------------------------------------------------- strain


def test_a_hot_board_is_strained_until_it_has_been_cool_for_a_while() -> None:
    strain = Strain(80.0)
    assert not strain.take(Health(temperature_c=79.9), 0)
    assert strain.take(Health(temperature_c=80.0), 30)
    assert strain.reason == "80 degrees Celsius"
    # Not yet cooled down by the margin.
    assert strain.take(Health(temperature_c=80.0 - MARGIN_C), 60)
    assert strain.take(Health(temperature_c=70.0), 90)
    assert strain.take(Health(temperature_c=70.0), 60 + CALM_S - 1)
    assert not strain.take(Health(temperature_c=70.0), 60 + CALM_S)
    assert not strain.take(Health(temperature_c=79.9), 400)
    assert strain.reason == ""


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(1, "low voltage"), (2, "frequency capped"), (12, "throttled, temperature limit"), (16, ""), (0, ""), (None, "")],
)
def test_a_throttled_board_is_strained(flags: int | None, reason: str) -> None:
    strain = Strain(80.0)
    assert strain.take(Health(throttled=flags), 0) is bool(reason)
    assert strain.reason == reason


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 60)), min_size=1, max_size=60))
def test_strain_ends_at_most_once_in_a_while(samples: list[tuple[float, int]]) -> None:
    strain, now_s, before, ends = Strain(80.0), 0.0, False, [float("-inf")]
    for temperature_c, seconds in samples:
        now_s += seconds
        strained = strain.take(Health(temperature_c=temperature_c), now_s)
        if temperature_c >= strain.limit_c:
            assert strained
        if before and not strained:
            assert now_s - ends[-1] >= CALM_S
            ends.append(now_s)
        before = strained
