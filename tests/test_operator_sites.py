"""The file of sites, and what is written of it; that brokers take it, tests/live/test_sites.py shows."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from edge_peer.config import load_config
from edge_peer.errors import ConfigError
from edge_peer.operator.sites.__main__ import access, configuration, main
from edge_peer.operator.sites.file import Site, Sites, read_sites

DOCUMENT = Path(__file__).parent.parent / "docs/several-brokers.md"
GOOD = """
hub = "north"
[sites.north]
host = "north.example.org"
peers = ["kitchen", "garage"]
operators = ["operator"]
[sites.south]
host = "south.lan"
port = 8884
peers = ["barn"]
names = ["192.168.7.1"]
[sites.west]
host = "west.lan"
bind_address = "192.168.8.1"
folder = "/srv/mosquitto"
peers = ["gate", "shed"]
"""
SOUTH = '[sites.south]\nhost = "south.lan"\npeers = ["barn"]\n'


def read(tmp_path: Path, text: str = GOOD) -> Sites:
    path = tmp_path / "sites.toml"
    path.write_text(text)
    return read_sites(path)


def test_the_file_says_who_is_where(tmp_path: Path) -> None:
    sites = read(tmp_path)
    assert [it.name for it in sites] == ["north", "south", "west"]
    assert sites.hub == Site("north", "north.example.org", ("kitchen", "garage"), ("operator",))
    assert sites.leaves[0].port == 8884
    assert sites.leaves[1].folder == "/srv/mosquitto"


@pytest.mark.parametrize("port", [8883, 8884])
def test_a_bridge_has_each_peer_in_one_direction(tmp_path: Path, port: int) -> None:
    sites = read(tmp_path, GOOD.replace('host = "north.example.org"', f'host = "north.example.org"\nport = {port}'))
    text = configuration(sites, sites.leaves[0])
    assert f"address north.example.org:{port}\n" in text
    assert re.findall(r"^topic (.*)", text, re.MULTILINE) == [
        "fl/v1/+/barn/# out 1",
        "fl/v1/+/kitchen/# in 1",
        "fl/v1/+/garage/# in 1",
        "fl/v1/+/operator/# in 1",
        "fl/v1/+/gate/# in 1",
        "fl/v1/+/shed/# in 1",
    ]
    assert "connection" not in configuration(sites, sites.hub), "it waits for the others"
    west = configuration(sites, sites.leaves[1])
    assert "listener 8883 192.168.8.1\n" in west
    assert "bridge_keyfile /srv/mosquitto/bridge.key\n" in west


def test_who_may_write_is_at_that_site_or_its_bridge(tmp_path: Path) -> None:
    sites = read(tmp_path)
    hub = access(sites, sites.hub)
    assert re.findall(r"^user (\S+)\n", hub, re.MULTILINE) == [
        "kitchen",
        "garage",
        "operator",
        "bridge.south",
        "bridge.west",
    ]
    assert "user bridge.west\ntopic write fl/v1/+/gate/#\ntopic write fl/v1/+/shed/#\n" in hub
    assert "write" not in access(sites, sites.leaves[0]).replace("topic write fl/v1/+/barn/#", "").partition("user")[2]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hub = 3", r"hub = 3: must be one of the sites: there is none"),
        (GOOD.replace('hub = "north"', 'hub = "east"'), r"hub = 'east': must be one of the sites: north, south, west"),
        (GOOD + "\n[more]", r"more = {}: no such key; known are hub and sites"),
        ('hub = "south"\n' + SOUTH, "there is one only, which needs no bridge"),
        (GOOD.replace('"barn"', '"bar n"'), r"\[sites.south\] peers = \['bar n'\]: 'bar n': use letters"),
        (GOOD.replace('["barn"]', '"barn"'), r"\[sites.south\] peers = 'barn': must be a list of texts"),
        (GOOD.replace('["barn"]', "[]"), r"\[sites.south\] peers = \[\]: name those"),
        (GOOD.replace('"barn"', '"garage"'), r"\[sites.south\]: 'garage' is named at north already"),
        (GOOD.replace('"barn"', '"bridge.south"'), r"\[sites.south\]: 'bridge.south' has a meaning of its own"),
        (GOOD.replace('"barn"', '"CA"'), r"'CA' has a meaning of its own"),
        (GOOD.replace("8884", "88840"), r"\[sites.south\] port = 88840: must be a whole number from 1 to 65535"),
        (GOOD.replace("8884", "true"), r"\[sites.south\] port = True: must be a whole number"),
        (GOOD.replace('"south.lan"', '"a b"'), r"\[sites.south\] host = 'a b': must be a text without spaces"),
        (GOOD.replace('"south.lan"', r'"a\nuser x"'), r"\[sites.south\] host = .*: must be a text without spaces"),
        (GOOD.replace('"192.168.7.1"', '""'), r"\[sites.south\] names = \[''\]: '': must be host names or addresses"),
        (GOOD.replace('host = "south.lan"\n', ""), r"\[sites.south\] host is missing"),
        (GOOD.replace("bind_address", "bind"), r"\[sites.west\] bind = '192.168.8.1': no such key"),
        (GOOD.replace('"west.lan"', '"north.example.org"'), r"\[sites.west\] host = .*: another site has this broker"),
        (GOOD.replace("sites.south", 'sites."so uth"'), r"\[sites.so uth\]: use letters"),
        ("hub = ", "not a TOML file"),
        ("sites = 3", r"sites = 3: a site is written \[sites.NAME\]"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(tmp_path, text)
    out = tmp_path / "out"
    assert main([str(tmp_path / "sites.toml"), "--out", str(out), "--pki", str(out)]) == 2
    assert "sites: " in capsys.readouterr().err
    assert not out.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_sites(tmp_path / "none.toml")


def test_each_site_gets_its_files_and_keys_are_read_by_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path)
    options = ["--out", str(tmp_path / "out"), "--pki", str(tmp_path / "pki")]
    assert main([str(tmp_path / "sites.toml"), *options]) == 0
    assert "11 made, 0 kept" in capsys.readouterr().out
    hub = {"edge-peer.conf", "acl", "ca.crt", "broker.crt", "broker.key"}
    for site, files in (("north", hub), ("south", hub | {"bridge.crt", "bridge.key"})):
        folder = tmp_path / "out" / site
        assert {it.name for it in folder.iterdir()} == files
        for it in folder.glob("*.key"):
            assert stat.S_IMODE(it.stat().st_mode) & 0o007 == 0
    assert main([str(tmp_path / "sites.toml"), *options]) == 0
    assert "0 made, 11 kept" in capsys.readouterr().out
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "sites.toml"), "--out", str(tmp_path / "file"), *options[2:]]) == 2
    assert "choose another folder with --out" in capsys.readouterr().err


def test_the_files_in_the_document_are_ones(tmp_path: Path) -> None:
    sites, board = re.findall(r"^```toml\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert [it.peers for it in read(tmp_path, sites)] == [("kitchen", "garage", "roof"), ("barn", "gate")]
    own = '[peer]\nname = "kitchen"\nstate_dir = "state"\ntrain = false\n[model]\nartifacts = "model"\n'
    path = tmp_path / "config.toml"
    path.write_text(own + board)
    assert load_config(path).broker.addresses() == (("one.lan", 8883), ("two.lan", 8883), ("three.lan", 8884))
