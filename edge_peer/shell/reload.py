"""What of a configuration that is read again can be taken without a restart."""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields, replace
from typing import Any

from edge_peer.config import SECTIONS, BrokerSection, Config
from edge_peer.config_relations import relations
from edge_peer.errors import ConfigError

#: By section; None: every key. What is not here the other peers, or files that are open, count on.
RELOADABLE: dict[str, frozenset[str] | None] = {
    "peer": frozenset(
        {"control", "train", "controller_trains", "priority", "disk_free_bytes_min", "temperature_c_max"}
    ),
    "broker": None,
    "run": None,
    "trainer": frozenset({"evaluate_local", "stall_s"}),
    "log": None,
}
#: What a connection is made with; the rest says what to do without one.
CONNECTION = (
    "address",
    "keepalive_s",
    "connect_timeout_s",
    "packet_bytes_max",
    "username",
    "password_file",
    "tls_ca",
    "tls_certificate",
    "tls_key",
)


def renewed(old: Config, new: Config) -> tuple[Config, list[str], list[str]]:
    """Take what can be taken.

    Args:
        old: In effect.
        new: Read again.

    Returns:
        What is in effect from now on; the fields in which it differs from before; the fields that need a restart.

    Raises:
        ConfigError: What can be taken does not go with what cannot.
    """
    taken: list[str] = []
    left: list[str] = []
    sections: dict[str, Any] = {}
    for section in SECTIONS:
        before, after = getattr(old, section), getattr(new, section)
        names = [it.name for it in fields(before) if getattr(before, it.name) != getattr(after, it.name)]
        allowed = RELOADABLE.get(section, frozenset())
        changes = {name: getattr(after, name) for name in names if allowed is None or name in allowed}
        sections[section] = replace(before, **changes)
        taken += [f"[{section}] {name}" for name in changes]
        left += [f"[{section}] {name}" for name in names if name not in changes]
    config = Config(**sections)
    problems = [problem for _, problem in relations(config)]
    if problems:
        why = f" (as long as the process runs, {', '.join(left)} stay as they were: restart it)" if left else ""
        raise ConfigError([problem + why for problem in problems])
    return config, taken, left


def same_connection(old: BrokerSection, new: BrokerSection) -> bool:
    """Whether a connection of the one serves for the other, as far as the settings tell."""
    return all(getattr(old, name) == getattr(new, name) for name in CONNECTION)


def credentials(broker: BrokerSection) -> bytes:
    """Digest of the files that a connection is made with: other certificates have another."""
    digest = hashlib.sha256()
    for path in (broker.password_file, broker.tls_ca, broker.tls_certificate, broker.tls_key):
        try:
            content = path.read_bytes() if path is not None else b""
        except OSError:
            # Whoever connects says so.
            content = b""
        digest.update(hashlib.sha256(content).digest())
    return digest.digest()


def has_terminal() -> bool:
    """Whether a terminal controls this process: a terminal that is closed sends the same signal as a reload."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
