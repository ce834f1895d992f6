"""Who is in a fleet, as its inventory says: the certificates that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_peer.errors import ConfigError
from edge_peer.operator.certificates.x509 import COMMON_NAME_MAX, Wanted
from edge_peer.operator.fleet.inventory import read_hosts
from edge_peer.protocol.topics import is_name

OPERATOR = "operator"
#: The broker's certificate, which a peer on the same host has beside its own.
SERVER = "broker."
#: What an operator uses who comes through an SSH tunnel.
HERE = ("localhost", "127.0.0.1")


def read_inventory(path: Path) -> list[Wanted]:
    """The certificates of all hosts in the groups `peers` and `broker`, and the operator's.

    A broker's certificate has the host's name and `ansible_host`, and what the list `broker_tls_names` adds.

    Raises:
        ConfigError: There is no inventory, or Ansible cannot read it, or a name in it is not one.
    """
    peers, hosts = read_hosts(path, "peers", "broker")
    brokers = {}
    for host, own in hosts.items():
        names = own.get("broker_tls_names", [])
        if not isinstance(names, list) or not all(isinstance(it, str) for it in names):
            raise ConfigError([f"{path}: {host}: broker_tls_names = {names!r}: must be a list of texts"])
        brokers[host] = [*([str(own["ansible_host"])] if "ansible_host" in own else []), *names]
    return wanted([*peers], brokers)


def wanted(peers: Sequence[str], brokers: Mapping[str, Sequence[str]]) -> list[Wanted]:
    """The certificates of a fleet.

    Args:
        peers: Their names.
        brokers: By host name, the further names and addresses that a broker is known by.

    Raises:
        ConfigError: With every name that cannot be used.
    """
    problems = []
    if not peers and not brokers:
        problems.append("no peer and no broker is named: list hosts in the inventory's groups peers and broker")
    for peer in peers:
        if not is_name(peer):
            problems.append(
                f"peer {peer!r}: use letters, digits, '.', '_' and '-', at most 64, first a letter or digit"
            )
        elif peer.lower() in (OPERATOR, "ca", "ca.next") or peer.lower().startswith(SERVER):
            problems.append(f"peer {peer!r}: this name has a meaning of its own here; call the peer otherwise")
    for host, more in brokers.items():
        if not is_name(host) or len(SERVER + host) > COMMON_NAME_MAX:
            problems.append(
                f"broker {host!r}: use letters, digits, '.', '_' and '-', at most {COMMON_NAME_MAX - len(SERVER)}, "
                "first a letter or digit"
            )
        for it in more:
            if not it or not it.isascii() or not it.isprintable() or set(it) & set(" {}/,"):
                problems.append(
                    f"broker {host!r}: {it!r} is no host name or address: write it out (no variables; punycode for "
                    "other letters)"
                )
    if problems:
        raise ConfigError(problems)
    servers = [
        Wanted(SERVER + host, True, tuple(dict.fromkeys([host, *_local(host), *more, *HERE])))
        for host, more in brokers.items()
    ]
    return [*servers, *(Wanted(it) for it in dict.fromkeys(peers)), Wanted(OPERATOR)]


def _local(host: str) -> list[str]:
    """As multicast DNS knows it, which boards answer to out of the box."""
    return [f"{host}.local"] if "." not in host else []
