"""Relations that fields of a configuration must have: what no single field can show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edge_peer.config_aggregation import aggregation_relations
from edge_peer.protocol.topics import is_name

if TYPE_CHECKING:
    from edge_peer.config import Config

#: The fields that a problem is about, and the problem.
Relation = tuple[tuple[str, ...], str]


def short(value: Any) -> str:
    """A value as it is shown in a problem."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def relations(config: Config) -> Iterator[Relation]:
    """Every relation that does not hold."""
    peer, federation, broker, run, timing = config.peer, config.federation, config.broker, config.run, config.timing
    for where, name in (("peer", peer.name), ("federation", federation.name)):
        if name is not None and not is_name(name):
            yield (
                (f"{where}.name",),
                (
                    f"[{where}] name = {short(name)}: use letters, digits, '.', '_' and '-', at most 64, first a "
                    "letter or digit"
                ),
            )
    yield from _roster_relations(config)
    if run.round_deadline_s < broker.keepalive_s:
        yield (
            ("run.round_deadline_s", "broker.keepalive_s"),
            (
                f"[run] round_deadline_s = {run.round_deadline_s:g} is shorter than [broker] keepalive_s = "
                f"{broker.keepalive_s}: a round would end before a dead peer is noticed; raise the one "
                "or lower the other"
            ),
        )
    if timing.lease_s < broker.keepalive_s:
        yield (
            ("timing.lease_s", "broker.keepalive_s"),
            (
                f"[timing] lease_s = {timing.lease_s:g} is shorter than [broker] keepalive_s = {broker.keepalive_s}: "
                "raise the one or lower the other"
            ),
        )
    textfile = config.metrics.textfile
    if textfile is not None and textfile.suffix != ".prom":
        yield (
            ("metrics.textfile",),
            (
                f"[metrics] textfile = {short(str(textfile))}: node_exporter reads only files that end in .prom; name "
                "one that does"
            ),
        )
    if broker.reconnect_s_max < broker.reconnect_s_min:
        yield (
            ("broker.reconnect_s_max", "broker.reconnect_s_min"),
            (
                f"[broker] reconnect_s_max = {broker.reconnect_s_max:g} is less than reconnect_s_min = "
                f"{broker.reconnect_s_min:g}: raise it"
            ),
        )
    tls = {name: getattr(broker, name) for name in ("tls_ca", "tls_certificate", "tls_key")}
    if any(tls.values()) and not all(tls.values()):
        missing = ", ".join(name for name, value in tls.items() if not value)
        yield (
            tuple(f"broker.{name}" for name in tls),
            f"[broker] {missing} is missing: TLS needs tls_ca, tls_certificate and tls_key, or none of them",
        )
    try:
        broker.addresses()
    except ValueError as error:
        yield ("broker.alternatives",), f"[broker] alternatives = {short(list(broker.alternatives))}: each {error}"
    if broker.password_file is not None and broker.username is None:
        yield (
            ("broker.password_file", "broker.username"),
            f"[broker] password_file = {str(broker.password_file)!r} is of no use without username: add it",
        )
    if peer.train and config.shard.path is None:
        yield (
            ("peer.train", "shard.path"),
            "[shard] path is missing: a peer that trains needs data; add it, or set [peer] train = false",
        )
    if run.strategy == "all" and run.fraction != 1.0:
        yield (
            ("run.strategy", "run.fraction"),
            f'[run] fraction = {run.fraction:g} has no effect with strategy = "all": choose "fraction"',
        )
    yield from aggregation_relations(config)


def _roster_relations(config: Config) -> Iterator[Relation]:
    roster = config.federation.roster
    needed = {
        "federation.min_peers": config.federation.min_peers,
        "run.updates_min": config.run.updates_min,
    }
    peers_max = config.limits.peers_max
    if roster is not None:
        if config.peer.name not in roster:
            yield (
                ("peer.name", "federation.roster"),
                f"[federation] roster = {short(list(roster))} does not list this peer, {config.peer.name!r}: add it",
            )
        if len(set(roster)) != len(roster) or not all(is_name(name) for name in roster):
            yield (
                ("federation.roster",),
                f"[federation] roster = {short(list(roster))}: write valid names, each once",
            )
        needed["federation.roster"] = len(roster)
    for field_, value in needed.items():
        section, key = field_.split(".")
        if roster is not None and value > len(roster):
            yield (
                (field_, "federation.roster"),
                f"[{section}] {key} = {value}: the roster has only {len(roster)} peers, no run could start; lower it",
            )
        if value > peers_max:
            size = f"roster of {value} peers" if field_ == "federation.roster" else f"{key} = {value}"
            yield (
                (field_, "limits.peers_max"),
                f"[{section}] {size}: more than [limits] peers_max = {peers_max}; raise that",
            )
