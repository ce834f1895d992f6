"""How the board is: temperature, throttling, load, free memory and disk, as far as it tells a user without privileges.

Sources: Linux's sysfs-class-thermal and hwmon; the Raspberry Pi firmware's flags (as of `vcgencmd get_throttled`);
NVIDIA's Jetson Linux Developer Guide (over-current events, nvpmodel).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from edge_peer.shell.telemetry import disk_free_bytes, kibibytes

#: Flags of `Health.throttled`: those of the Raspberry Pi's firmware, which other boards' reasons are put to.
LOW_VOLTAGE, CAPPED, THROTTLED, TOO_HOT = 1, 2, 4, 8
NAMES = {LOW_VOLTAGE: "low voltage", CAPPED: "frequency capped", THROTTLED: "throttled", TOO_HOT: "temperature limit"}
#: So many degrees below the limit a hot board has cooled down.
MARGIN_C = 5.0
#: So long a board must be well before it counts for what it is again: a state that comes and goes must not.
CALM_S = 120.0
#: No sensor of a board that works; some zones show fillers such as -256 degrees.
TEMPERATURES_C = (-60.0, 150.0)
#: A few bytes are expected of each file.
BYTES_MAX = 65_536
#: More is not sent: no board has it.
NUMBER_MAX = 10**15
PROCESSOR = re.compile(r"cpu|gpu|soc|tj|pkg|core", re.IGNORECASE)
#: The Jetson Nano's power chip always says 100 degrees; the others are no part of the processor.
ELSEWHERE = re.compile(r"pmic|wifi|wlan|nvme|bat|charger", re.IGNORECASE)
#: Devices that cool by making the processor slower; others are fans.
SLOWING = re.compile(r"cpufreq|devfreq|processor|throttle|balanced", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Health:
    """What the board tells of itself; None: it does not.

    Attributes:
        temperature_c: Of the hottest part of the processor, degrees Celsius.
        throttled: Why it runs slower than it could: the sum of 1 (low voltage), 2 (frequency capped), 4 (throttled) and
            8 (temperature limit); 0: it does not.
        load_1m: Processes that run or want to, mean over a minute.
        memory_free_bytes: What programs could still get.
        disk_free_bytes: Where the peer's state is.
        power_mode: Number of the power mode of a Jetson (nvpmodel).
    """

    temperature_c: float | None = None
    throttled: int | None = None
    load_1m: float | None = None
    memory_free_bytes: int | None = None
    disk_free_bytes: int | None = None
    power_mode: int | None = None

    def numbers(self) -> dict[str, float]:
        """What is known, by name."""
        values = ((it.name, getattr(self, it.name)) for it in fields(self))
        return {name: min(value, NUMBER_MAX) for name, value in values if value is not None}


class HealthReader:
    """Reads it, again and again.

    Args:
        state_dir: Where disk is needed.
        root: The board's root folder.
    """

    def __init__(self, state_dir: Path, root: Path = Path("/")) -> None:
        self._state_dir = state_dir
        self._root = root
        self._over_currents: int | None = None

    def read(self) -> Health:
        """The board as it is now; what cannot be read is not told. Never raises."""
        return Health(
            temperature_c=self._temperature_c(),
            throttled=self._throttled(),
            load_1m=self._load(),
            memory_free_bytes=kibibytes(self._root / "proc/meminfo", "MemAvailable:") or None,
            disk_free_bytes=self._disk_free(),
            power_mode=self._power_mode(),
        )

    def _disk_free(self) -> int | None:
        try:
            return disk_free_bytes(self._state_dir)
        except OSError:
            return None

    def _temperature_c(self) -> float | None:
        zones: list[tuple[str, float]] = []
        for zone in self._folders("sys/class/thermal", "thermal_zone*"):
            value = _integer(_text(zone / "temp"))
            if value is not None and TEMPERATURES_C[0] < value / 1000 < TEMPERATURES_C[1]:
                zones.append((_text(zone / "type"), value / 1000))
        processor = [value for name, value in zones if PROCESSOR.search(name) and not ELSEWHERE.search(name)]
        return max(processor or [value for name, value in zones if not ELSEWHERE.search(name)], default=None)

    def _throttled(self) -> int | None:
        known = [self._firmware(), self._supply(), self._cooling(), self._over_current()]
        flags = [it for it in known if it is not None]
        if not flags:
            return None
        together = 0
        for it in flags:
            together |= it
        return together

    def _firmware(self) -> int | None:
        """A Raspberry Pi with its maker's kernel; the flags above the lowest four tell of the past."""
        value = _integer(_text(self._root / "sys/devices/platform/soc/soc:firmware/get_throttled"), 16)
        return value & 15 if value is not None else None

    def _supply(self) -> int | None:
        """A Raspberry Pi with any kernel: the voltage alone."""
        for chip in self._folders("sys/class/hwmon", "hwmon*"):
            if _text(chip / "name") == "rpi_volt":
                value = _integer(_text(chip / "in0_lcrit_alarm"))
                return LOW_VOLTAGE * (value != 0) if value is not None else None
        return None

    def _cooling(self) -> int | None:
        """Any board whose kernel itself makes the processor slower, such as a Jetson."""
        states = [
            _integer(_text(device / "cur_state"))
            for device in self._folders("sys/class/thermal", "cooling_device*")
            if SLOWING.search(_text(device / "type"))
        ]
        known = [it for it in states if it is not None]
        return CAPPED * any(it > 0 for it in known) if known else None

    def _over_current(self) -> int | None:
        """A Jetson Orin counts what it has throttled for: low voltage, and too much current."""
        for chip in self._folders("sys/class/hwmon", "hwmon*"):
            if _text(chip / "name") == "soctherm_oc":
                counts = [_integer(_text(chip / f"oc{number}_event_cnt")) for number in (1, 2, 3)]
                known = [it for it in counts if it is not None]
                if not known:
                    return None
                before, self._over_currents = self._over_currents, sum(known)
                return THROTTLED * (before is not None and sum(known) > before)
        return None

    def _load(self) -> float | None:
        found = re.match(r"\d{1,9}(\.\d{1,9})?(?=\s)", _text(self._root / "proc/loadavg") + " ")
        return float(found[0]) if found else None

    def _power_mode(self) -> int | None:
        found = re.search(r"pmode:(\d{1,9})(?!\d)", _text(self._root / "var/lib/nvpmodel/status"), re.ASCII)
        return int(found[1]) if found else None

    def _folders(self, parent: str, pattern: str) -> Iterator[Path]:
        try:
            yield from sorted((self._root / parent).glob(pattern))
        except OSError:
            return


class Strain:
    """Whether the board is hot or throttled, without coming and going.

    Args:
        limit_c: From this temperature on it is hot.
    """

    def __init__(self, limit_c: float) -> None:
        self.limit_c = limit_c
        #: Why; empty: it is well. What it was at first, while it is not well for long enough.
        self.reason = ""
        self._strained_s = float("-inf")

    def take(self, health: Health, now_s: float) -> bool:
        """Take in how the board is; returns whether it is strained, or was until a short while ago."""
        limit_c = self.limit_c - (MARGIN_C if self.reason else 0.0)
        reasons = [f"{health.temperature_c:.0f} degrees Celsius"] if (health.temperature_c or 0.0) >= limit_c else []
        reasons += [name for flag, name in NAMES.items() if (health.throttled or 0) & flag]
        if reasons:
            self._strained_s = now_s
            self.reason = self.reason or ", ".join(reasons)
        elif now_s - self._strained_s >= CALM_S:
            self.reason = ""
        return bool(self.reason)


def _text(path: Path) -> str:
    """A small file's text without white space around it; empty where it cannot be read, as of a part that is off."""
    try:
        with path.open("rb") as file:
            return file.read(BYTES_MAX).decode("ascii", "replace").strip()
    except (OSError, ValueError):
        return ""


def _integer(text: str, base: int = 10) -> int | None:
    form = r"-?\d{1,18}" if base == 10 else r"(0x)?[0-9a-f]{1,16}"
    return int(text, base) if re.fullmatch(form, text, re.ASCII | re.IGNORECASE) else None
