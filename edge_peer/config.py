"""A board's configuration: one TOML file, checked whole before anything starts, all problems told at once."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from edge_peer.errors import ConfigError
from edge_peer.protocol.messages import STRATEGIES, RunSettings
from edge_peer.protocol.settings import Timing
from edge_peer.protocol.topics import is_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BACKENDS = frozenset({"litert"})
LEVELS = frozenset({"debug", "info", "warning", "error"})
PORT = 1883
PORT_TLS = 8883


@dataclass(frozen=True, slots=True)
class PeerSection:
    """Who this board is and what it takes on.

    Attributes:
        name: Unique in the federation; with TLS the common name of its certificate.
        state_dir: Where state, checkpoint and the runs' CSV files are kept.
        control: Willing to be controller.
        train: Willing to train.
        controller_trains: Trains while it is controller, too.
        priority: Added to the measured capability score.
        disk_free_bytes_min: With less free disk it refuses to train, and says so.
    """

    name: str
    state_dir: Path
    control: bool = True
    train: bool = True
    controller_trains: bool = True
    priority: float = 0.0
    disk_free_bytes_min: int = 50_000_000


@dataclass(frozen=True, slots=True)
class FederationSection:
    """Whom it works with.

    Attributes:
        name: Federations of different names can share a broker.
        roster: All peers that may vote; without it, whoever is seen online.
        min_peers: A run starts when this many want one.
    """

    name: str = "default"
    roster: tuple[str, ...] | None = None
    min_peers: int = 2


@dataclass(frozen=True, slots=True)
class BrokerSection:
    """Where the broker is.

    Attributes:
        port: 1883, or 8883 with TLS, unless given.
        keepalive_s: The broker takes a silent peer for gone after one and a half of this.
        reconnect_s_min: First wait before another try; it doubles up to `reconnect_s_max`.
        give_up_after_s: Exit with code 3 when the broker was away this long; 0: never.
        packet_bytes_max: Larger messages are not taken.
    """

    host: str = "localhost"
    port: int = 0
    keepalive_s: int = 10
    connect_timeout_s: float = 5.0
    reconnect_s_min: float = 0.1
    reconnect_s_max: float = 30.0
    give_up_after_s: float = 0.0
    packet_bytes_max: int = 16 * 1024 * 1024
    username: str | None = None
    password_file: Path | None = None
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port or (PORT_TLS if self.tls_ca else PORT)


@dataclass(frozen=True, slots=True)
class ModelSection:
    """The folder with train.tflite, initial.safetensors and manifest.json."""

    artifacts: Path


@dataclass(frozen=True, slots=True)
class ShardSection:
    """This board's data; a peer that neither trains nor evaluates has none."""

    path: Path | None = None


@dataclass(frozen=True, slots=True)
class TrainerSection:
    """How it trains.

    Attributes:
        threads: Of the interpreter.
        evaluate_local: Score the local model after training, for the CSV.
    """

    backend: str = "litert"
    threads: int = 1
    evaluate_local: bool = True


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """Bounds on what others can make this peer hold."""

    peers_max: int = 1024
    events_max: int = 10_000


@dataclass(frozen=True, slots=True)
class LogSection:
    """What goes to standard error."""

    level: str = "info"


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration of one board."""

    peer: PeerSection
    model: ModelSection
    federation: FederationSection = field(default_factory=FederationSection)
    broker: BrokerSection = field(default_factory=BrokerSection)
    shard: ShardSection = field(default_factory=ShardSection)
    run: RunSettings = field(default_factory=RunSettings)
    timing: Timing = field(default_factory=Timing)
    trainer: TrainerSection = field(default_factory=TrainerSection)
    limits: LimitsSection = field(default_factory=LimitsSection)
    log: LogSection = field(default_factory=LogSection)


SECTIONS: dict[str, type[Any]] = {
    "peer": PeerSection,
    "federation": FederationSection,
    "broker": BrokerSection,
    "model": ModelSection,
    "shard": ShardSection,
    "run": RunSettings,
    "timing": Timing,
    "trainer": TrainerSection,
    "limits": LimitsSection,
    "log": LogSection,
}
#: Smallest and largest value of every number.
RANGES: dict[str, tuple[float, float]] = {
    "peer.priority": (0, 1e6),
    "peer.disk_free_bytes_min": (0, 2**50),
    "federation.min_peers": (1, 10_000),
    "broker.port": (0, 65_535),
    "broker.keepalive_s": (1, 3600),
    "broker.connect_timeout_s": (0.1, 300),
    "broker.reconnect_s_min": (0.01, 60),
    "broker.reconnect_s_max": (0.01, 3600),
    "broker.give_up_after_s": (0, 1e7),
    "broker.packet_bytes_max": (1024, 268_435_455),
    "run.rounds_max": (1, 1_000_000),
    "run.target_accuracy": (0, 1),
    "run.epochs": (1, 1000),
    "run.learning_rate": (1e-9, 1e3),
    "run.round_deadline_s": (0.1, 1e6),
    "run.updates_min": (1, 10_000),
    "run.fraction": (0.001, 1),
    "run.seed": (0, 2**53 - 1),
    "run.update_norm_max": (0, 1e30),
    "timing.grace_s": (0, 600),
    "timing.lease_s": (0.1, 3600),
    "timing.settle_s": (0, 60),
    "timing.election_timeout_s": (0.05, 600),
    "timing.startup_window_s": (0, 3600),
    "timing.resend_s": (0.1, 600),
    "timing.final_report_s": (0, 3600),
    "trainer.threads": (1, 64),
    "limits.peers_max": (1, 4096),
    "limits.events_max": (100, 1_000_000),
}
CHOICES: dict[str, frozenset[str]] = {
    "run.strategy": STRATEGIES,
    "trainer.backend": BACKENDS,
    "log.level": LEVELS,
}
Section = TypeVar("Section")


def load_config(path: Path) -> Config:
    """Read and check a configuration file; paths in it are relative to its folder.

    Raises:
        ConfigError: With every problem that it has.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror}); name the file with --config"]) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{path}: not a TOML file: {error}"]) from None
    problems: list[str] = []
    for name in tables:
        if name not in SECTIONS:
            problems.append(f"[{name}] is not a section{_meant(name, SECTIONS)}")
    sections = {
        name: _section(kind, name, tables.get(name, {}), path.parent, problems) for name, kind in SECTIONS.items()
    }
    if any(section is None for section in sections.values()):
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    config = Config(**sections)
    problems += _relations(config)
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return config


def _meant(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _section(kind: type[Any], name: str, table: Any, folder: Path, problems: list[str]) -> Any:
    if not isinstance(table, dict):
        problems.append(f"{name} = {table!r}: a section is written [{name}]")
        return None
    fields = {item.name: item for item in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    wrong = False
    for key, value in table.items():
        if key not in fields:
            problems.append(f"[{name}] {key} is not a key{_meant(key, fields)}")
            continue
        try:
            values[key] = _value(f"{name}.{key}", value, hints[key], folder)
        except ValueError as error:
            problems.append(f"[{name}] {key} = {value!r}: {error}")
            wrong = True
    for key, item in fields.items():
        if key not in table and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            problems.append(f"[{name}] {key} is missing")
            wrong = True
    return None if wrong else kind(**values)


def _value(where: str, value: Any, hint: Any, folder: Path) -> Any:
    if get_origin(hint) in (Union, UnionType):
        hint = next(choice for choice in get_args(hint) if choice is not type(None))
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError("must be a list of texts")
        return tuple(value)
    if hint is bool:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value
    if hint in (int, float):
        whole = hint is int
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ValueError("must be a whole number" if whole else "must be a number")
        low, high = RANGES[where]
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g}")
        return hint(value)
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text")
    if where in CHOICES and value not in CHOICES[where]:
        raise ValueError(f"must be one of {', '.join(sorted(CHOICES[where]))}")
    return (folder / value).resolve() if hint is Path else value


def _relations(config: Config) -> list[str]:
    """What single fields cannot show."""
    peer, federation, broker, run, timing = config.peer, config.federation, config.broker, config.run, config.timing
    problems = [
        f"[{where}] name = {name!r}: use letters, digits, '.', '_' and '-', at most 64, no '.' first"
        for where, name in (("peer", peer.name), ("federation", federation.name))
        if not is_name(name)
    ]
    if federation.roster is not None:
        roster = federation.roster
        if peer.name not in roster:
            problems.append(f"[federation] roster does not list this peer, {peer.name!r}: add it")
        if len(set(roster)) != len(roster) or not all(is_name(name) for name in roster):
            problems.append(f"[federation] roster = {list(roster)!r}: names must be valid and stand once")
        for where, value in (("federation] min_peers", federation.min_peers), ("run] updates_min", run.updates_min)):
            if value > len(roster):
                problems.append(f"[{where} = {value}: the roster has only {len(roster)} peers, no run could start")
    if run.round_deadline_s < broker.keepalive_s:
        problems.append(
            f"[run] round_deadline_s = {run.round_deadline_s:g} is shorter than [broker] keepalive_s = "
            f"{broker.keepalive_s}: a round would end before a dead peer is noticed; raise the one or lower the other"
        )
    if timing.lease_s < broker.keepalive_s:
        problems.append(
            f"[timing] lease_s = {timing.lease_s:g} is shorter than [broker] keepalive_s = {broker.keepalive_s}: "
            "raise it"
        )
    if broker.reconnect_s_max < broker.reconnect_s_min:
        problems.append(
            f"[broker] reconnect_s_max = {broker.reconnect_s_max:g} is less than reconnect_s_min = "
            f"{broker.reconnect_s_min:g}: raise it"
        )
    tls = {name: getattr(broker, name) for name in ("tls_ca", "tls_certificate", "tls_key")}
    if any(tls.values()) and not all(tls.values()):
        problems.append(
            f"[broker] {', '.join(name for name, value in tls.items() if not value)} is missing: TLS needs all"
        )
    if peer.train and config.shard.path is None:
        problems.append("[shard] path is missing: a peer that trains needs data; or set [peer] train = false")
    if run.strategy == "all" and run.fraction != 1.0:
        problems.append(f'[run] fraction = {run.fraction:g} has no effect with strategy = "all": choose "fraction"')
    return problems


def to_toml(config: Config) -> str:
    """The configuration in effect, defaults included, as a TOML file."""
    lines = []
    for name in SECTIONS:
        lines.append(f"[{name}]")
        section = getattr(config, name)
        for item in dataclasses.fields(section):
            value = getattr(section, item.name)
            if value is not None:
                lines.append(f"{item.name} = {literal(value)}")
        lines.append("")
    return "\n".join(lines)


def literal(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(literal(item) for item in value)}]"
    # JSON's escapes are TOML's, for text without control characters of its own.
    return json.dumps(str(value), ensure_ascii=False)
