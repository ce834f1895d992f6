"""Which peers are at which site: the file that says it, read and checked whole, all problems told at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_peer.config import PORT_TLS
from edge_peer.config_relations import short
from edge_peer.errors import ConfigError
from edge_peer.protocol.topics import is_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Where the files will be on a broker's host.
DEFAULT_FOLDER = "/etc/mosquitto/edge-peer"
BRIDGE = "bridge."
SERVER = "broker."
RESERVED = frozenset({"ca", "ca.next"})
KEYS = frozenset({"host", "port", "peers", "operators", "bind_address", "names", "folder"})
NAME_RULE = "use letters, digits, '.', '_' and '-', at most 64, first a letter or digit"
#: Of a site's name: with what stands before it, it becomes a certificate's common name.
SITE_NAME_MAX = 64 - max(len(BRIDGE), len(SERVER))


@dataclass(frozen=True, slots=True)
class Site:
    """One broker, and who speaks with it.

    Attributes:
        name: The site's.
        host: Of its broker, as peers and other sites reach it.
        peers: Whose names are written under at this site's broker first.
        operators: The same of people, whose words are `stop` and `start`.
        port: Of its TLS listener.
        bind_address: What it listens on; empty: all addresses of its host.
        names: Further names and addresses in its certificate.
        folder: Of the broker's files on its host.
    """

    name: str
    host: str
    peers: tuple[str, ...]
    operators: tuple[str, ...] = ()
    port: int = PORT_TLS
    bind_address: str = ""
    names: tuple[str, ...] = ()
    folder: str = DEFAULT_FOLDER

    @property
    def speakers(self) -> tuple[str, ...]:
        """Everybody who writes at this site."""
        return (*self.peers, *self.operators)

    @property
    def bridge(self) -> str:
        """Name of its bridge at the hub: the common name of its certificate."""
        return BRIDGE + self.name


@dataclass(frozen=True, slots=True)
class Sites:
    """All of them; the hub is one."""

    hub: Site
    leaves: tuple[Site, ...]

    def __iter__(self) -> Iterator[Site]:
        """The hub first."""
        return iter((self.hub, *self.leaves))


def read_sites(path: Path) -> Sites:
    """Read and check a file of sites.

    Raises:
        ConfigError: With every problem that it has.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror}); --help shows what stands in it"]) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError([f"{path}: not a TOML file: {error}; correct it"]) from None
    problems: list[str] = []
    sites = _sites(document, problems)
    hub = document.get("hub")
    if hub not in sites:
        problems.append(f"hub = {short(hub)}: must be one of the sites: {', '.join(sites) or 'there is none'}")
    if not problems:
        problems += _relations(list(sites.values()))
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return Sites(sites[hub], tuple(site for name, site in sites.items() if name != hub))


def _sites(document: Mapping[str, Any], problems: list[str]) -> dict[str, Site]:
    """The sites by name; of one that cannot be used only the name is of worth, and a problem says why."""
    for key, value in document.items():
        if key not in ("hub", "sites"):
            problems.append(f"{key} = {short(value)}: no such key; known are hub and sites")
    tables = document.get("sites")
    if not isinstance(tables, dict) or not all(isinstance(it, dict) for it in tables.values()):
        problems.append(f"sites = {short(tables)}: a site is written [sites.NAME], and its keys below it")
        return {}
    return {name: _site(name, table, problems) for name, table in tables.items()}


def _site(name: str, table: Mapping[str, Any], problems: list[str]) -> Site:
    where = f"[sites.{name}]"
    before = len(problems)
    if not is_name(name) or len(name) > SITE_NAME_MAX:
        problems.append(f"{where}: {NAME_RULE.replace('64', str(SITE_NAME_MAX))}")
    for key, value in table.items():
        if key not in KEYS:
            problems.append(f"{where} {key} = {short(value)}: no such key; known are {', '.join(sorted(KEYS))}")
            continue
        problem = _problem(key, value)
        if problem:
            problems.append(f"{where} {key} = {short(value)}: {problem}")
    for key in ("host", "peers"):
        if key not in table:
            problems.append(f"{where} {key} is missing: write it below {where}")
    if len(problems) > before:
        return Site(name, "", ())
    values: dict[str, Any] = {key: tuple(it) if isinstance(it, list) else it for key, it in table.items()}
    return Site(name, **values)


def _problem(key: str, value: Any) -> str:
    """What is wrong with a key's value; empty: nothing."""
    if key == "port":
        right = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_535
        return "" if right else "must be a whole number from 1 to 65535"
    if key in ("peers", "operators", "names"):
        if not isinstance(value, list) or not all(isinstance(it, str) for it in value):
            return "must be a list of texts"
        check, rule = (_is_word, "must be host names or addresses") if key == "names" else (is_name, NAME_RULE)
        wrong = [it for it in value if not check(it)]
        return f"{short(wrong[0])}: {rule}" if wrong else ""
    if not isinstance(value, str) or not _is_word(value):
        return "must be a text without spaces, quotes and control characters, and not an empty one"
    return ""


def _is_word(text: str) -> bool:
    """It becomes one word of Mosquitto's configuration: what ends a word or a line would make others of it."""
    return bool(text) and text.isascii() and text.isprintable() and not set(text) & set(" #,\\\"'")


def _relations(sites: list[Site]) -> Iterator[str]:
    if len(sites) < 2:
        yield "sites: there is one only, which needs no bridge: docs/operations.md says how to have one broker"
    where: dict[str, str] = {}
    brokers = [(site.host, site.port) for site in sites]
    for site in sites:
        if not site.peers:
            yield f"[sites.{site.name}] peers = []: name those that speak with this broker, or leave the site out"
        if brokers.count((site.host, site.port)) > 1:
            yield f"[sites.{site.name}] host = {short(site.host)}: another site has this broker too; give each its own"
        for it in site.speakers:
            if it.lower() in RESERVED or it.lower().startswith((BRIDGE, SERVER)):
                yield f"[sites.{site.name}]: {it!r} has a meaning of its own here; call it otherwise"
            elif it in where:
                yield (
                    f"[sites.{site.name}]: {it!r} is named at {where[it]} already, and only one may write under a "
                    "name; give each its own"
                )
            where[it] = site.name
