"""A board's configuration: one TOML file, checked whole before anything starts, all problems told at once."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from aggregator_core.rules import RULES
from aggregator_core.server_optimizers import OPTIMIZERS
from edge_peer.config_relations import relations, short
from edge_peer.errors import ConfigError
from edge_peer.protocol.run_settings import PRIVACY, STRATEGIES, RunSettings
from edge_peer.protocol.settings import Timing
from edge_peer.trainers.backends import BACKENDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
        temperature_c_max: From this temperature on, and while it is throttled, the board counts half where a controller
            or the fastest are chosen.
        keep_updates: As controller, keep the updates of each round that it commits below `runs/<run id>/updates`, for
            `edge-peer audit RUN`; they tell of the peers' data. Never in runs with central privacy.
        keep_updates_bytes_max: Of all that is kept so; the oldest rounds go first.
    """

    name: str
    state_dir: Path
    control: bool = True
    train: bool = True
    controller_trains: bool = True
    priority: float = 0.0
    disk_free_bytes_min: int = 50_000_000
    temperature_c_max: float = 80.0
    keep_updates: bool = False
    keep_updates_bytes_max: int = 500_000_000


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


def host_and_port(text: str, port: int) -> tuple[str, int]:
    """`host`, `host:port` or `[address]:port`; the port is `port` where none is given. Raises ValueError."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+))(?::(\d{1,5}))?", text)
    if found is None or not 0 < int(found[3] or port) <= 65_535:
        raise ValueError("must be host, host:port or [address]:port, with a port from 1 to 65535")
    return found[1] or found[2], int(found[3] or port)


@dataclass(frozen=True, slots=True)
class BrokerSection:
    """Where the broker is.

    Attributes:
        host: Name or address; with TLS, a name that stands in the broker's certificate.
        port: 0 is 1883, or 8883 with TLS.
        alternatives: Further nodes of the same broker, as `host` or `host:port`: the next is tried where one does not
            answer. Brokers that only have a bridge between them are not the same broker.
        keepalive_s: The broker takes a silent peer for gone after one and a half of this.
        connect_timeout_s: A broker that does not answer within this time is not there.
        reconnect_s_min: First wait before another try; it doubles up to `reconnect_s_max`.
        reconnect_s_max: Longest wait before another try.
        give_up_after_s: Exit with code 3 when the broker was away this long; 0: never.
        packet_bytes_max: Larger messages are not taken.
        username: For brokers with passwords instead of certificates.
        password_file: A file with the password alone, readable by the peer's user only.
        tls_ca: The authority that the broker's certificate must be signed by; with it, TLS is on.
        tls_certificate: This peer's certificate; its common name is the peer's name.
        tls_key: The key to it.
    """

    host: str = "localhost"
    port: int = 0
    alternatives: tuple[str, ...] = ()
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

    def addresses(self, turn: int = 0) -> tuple[tuple[str, int], ...]:
        """Host and port of all nodes, this one first; `turn`: so many further on in their circle.

        Raises:
            ValueError: One of the alternatives is no address.
        """
        everywhere = [self.address, *(host_and_port(it, self.address[1]) for it in self.alternatives)]
        turn %= len(everywhere)
        return tuple(everywhere[turn:] + everywhere[:turn])


@dataclass(frozen=True, slots=True)
class ModelSection:
    """What is trained.

    Attributes:
        artifacts: The folder with train.tflite, initial.safetensors and manifest.json.
    """

    artifacts: Path


@dataclass(frozen=True, slots=True)
class ShardSection:
    """This board's data.

    Attributes:
        path: A file of `python -m data_shards`; a peer that neither trains nor evaluates has none.
    """

    path: Path | None = None


@dataclass(frozen=True, slots=True)
class TrainerSection:
    """How it trains.

    Attributes:
        backend: `litert`: ai-edge-litert or tflite-runtime, whichever is installed; `keras`: TensorFlow.
        threads: Of the backend; a small model is faster with one.
        evaluate_local: Score the local model after training, for the CSV.
        stall_s: A training that finishes no batch for this long hangs: systemd's watchdog then starts the peer anew.
            Many times what the longest batch takes; 0: never.
    """

    backend: str = "litert"
    threads: int = 1
    evaluate_local: bool = True
    stall_s: float = 600.0


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """Bounds on what others can make this peer hold.

    Attributes:
        peers_max: Further peers are ignored; twice as many updates are held at a time.
    """

    peers_max: int = 1024


@dataclass(frozen=True, slots=True)
class MetricsSection:
    """Numbers for Prometheus.

    Attributes:
        textfile: Written for node_exporter's textfile collector, such as /run/edge-peer/edge-peer.prom; it must end in
            .prom. Without it there are none.
        every_s: How often it is written anew.
    """

    textfile: Path | None = None
    every_s: float = 15.0


@dataclass(frozen=True, slots=True)
class LogSection:
    """What goes to standard error.

    Attributes:
        level: debug, info, warning or error.
    """

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
    metrics: MetricsSection = field(default_factory=MetricsSection)
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
    "metrics": MetricsSection,
    "log": LogSection,
}
#: Smallest and largest value of every number.
RANGES: dict[str, tuple[float, float]] = {
    "peer.priority": (0, 1e6),
    "peer.disk_free_bytes_min": (0, 2**50),
    "peer.temperature_c_max": (20, 150),
    "peer.keep_updates_bytes_max": (0, 2**50),
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
    "run.learning_rate": (0, 1e3),
    "run.proximal": (0, 1e6),
    "run.round_deadline_s": (0.1, 1e6),
    "run.updates_min": (1, 10_000),
    "run.fraction": (0.001, 1),
    "run.seed": (0, 2**53 - 1),
    "run.update_norm_max": (0, 1e30),
    "run.privacy_clip": (1e-9, 1e9),
    "run.privacy_noise": (1e-3, 1e3),
    "run.privacy_delta": (1e-12, 0.5),
    "timing.grace_s": (0, 600),
    "timing.lease_s": (0.1, 3600),
    "timing.settle_s": (0, 60),
    "timing.election_timeout_s": (0.05, 600),
    "timing.startup_window_s": (0, 3600),
    "timing.resend_s": (0.1, 600),
    "timing.final_report_s": (0, 3600),
    "timing.checkpoint_s": (0, 3600),
    "trainer.threads": (1, 64),
    "trainer.stall_s": (0, 1e6),
    "limits.peers_max": (1, 4096),
    "metrics.every_s": (1, 3600),
}
CHOICES: dict[str, frozenset[str]] = {
    "run.strategy": STRATEGIES,
    "run.rule": frozenset(RULES),
    "run.server_optimizer": frozenset(OPTIMIZERS) | {"none"},
    "run.privacy": PRIVACY,
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
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError([f"{path}: not a TOML file: {error}; correct it"]) from None
    problems: list[str] = []
    for name, value in tables.items():
        if name not in SECTIONS:
            problems.append(f"{_named(name, value)}: no such section{_meant(name, SECTIONS)}")
    unusable: set[str] = set()
    sections = {
        name: _section(kind, name, tables.get(name, {}), path.parent, problems, unusable)
        for name, kind in SECTIONS.items()
    }
    config = Config(**sections)
    # What is wrong by itself has been told; relations of the rest are told in the same breath.
    problems += [problem for fields, problem in relations(config) if unusable.isdisjoint(fields)]
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return config


def _named(name: str, value: Any) -> str:
    return f"[{name}]" if isinstance(value, dict) else f"{name} = {short(value)}"


def _meant(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _section(kind: type[Any], name: str, table: Any, folder: Path, problems: list[str], unusable: set[str]) -> Any:
    """A section's object; a field that cannot be used has its default, or None, in it and stands in `unusable`."""
    fields = {item.name: item for item in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    required = [
        key
        for key, item in fields.items()
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if not isinstance(table, dict):
        problems.append(f"{name} = {short(table)}: a section is written [{name}], and its keys below it")
        unusable.update(f"{name}.{key}" for key in fields)
        return kind(**dict.fromkeys(required))
    values: dict[str, Any] = dict.fromkeys(required)
    for key, value in table.items():
        if key not in fields:
            problems.append(f"[{name}] {key} = {short(value)}: no such key{_meant(key, fields)}")
            continue
        try:
            values[key] = _value(f"{name}.{key}", value, hints[key], folder)
        except ValueError as error:
            problems.append(f"[{name}] {key} = {short(value)}: {error}")
            unusable.add(f"{name}.{key}")
    for key in required:
        if key not in table:
            problems.append(f'[{name}] {key} is missing: write {key} = "..." below [{name}]')
            unusable.add(f"{name}.{key}")
    return kind(**values)


def _value(where: str, value: Any, hint: Any, folder: Path) -> Any:
    if get_origin(hint) in (Union, UnionType):
        hint = next(choice for choice in get_args(hint) if choice is not type(None))
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError("must be a list of texts")
        return tuple(value)
    if get_origin(hint) is dict:
        return _numbers(value)
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
        raise ValueError("must be a text, and not an empty one")
    if where in CHOICES and value not in CHOICES[where]:
        raise ValueError(f"must be one of {', '.join(sorted(CHOICES[where]))}")
    if hint is not Path:
        return value
    if "\0" in value:
        raise ValueError("must be a path, which holds no zero character")
    try:
        return (folder / value).resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"must be a path that leads somewhere ({error})") from None


def _numbers(value: Any) -> dict[str, float]:
    """A table of numbers, such as parameters of a rule; what they may be is a relation to the rule."""
    if not isinstance(value, dict) or not all(
        isinstance(it, int | float) and not isinstance(it, bool) and abs(it) <= 1e15 for it in value.values()
    ):
        raise ValueError("must be a table of numbers, such as { byzantine = 1 }")
    return dict(value)


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
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {literal(item)}" for key, item in value.items()) + " }" if value else "{}"
    if isinstance(value, tuple):
        return f"[{', '.join(literal(item) for item in value)}]"
    # JSON's escapes are TOML's, but for one control character that JSON leaves as it is.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
