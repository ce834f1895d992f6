"""A configuration that is read again: what is taken, what is named as left, what is refused whole."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from edge_peer.config import SECTIONS, BrokerSection, Config, FederationSection, ModelSection, PeerSection, ShardSection
from edge_peer.errors import ConfigError
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.shell.reload import RELOADABLE, credentials, renewed, same_connection

CONFIG = Config(
    PeerSection("kitchen", Path("/var/lib/edge-peer")),
    ModelSection(Path("/opt/edge-peer/models/image_cnn")),
    federation=FederationSection(roster=("kitchen", "garage", "roof")),
    shard=ShardSection(Path("/shard")),
)
#: A valid other value of fields for which the rules below give none.
OTHERS: dict[str, Any] = {
    "peer.name": "roof",
    "peer.state_dir": Path("/state"),
    "model.artifacts": Path("/model"),
    "shard.path": Path("/other"),
    "federation.name": "other",
    "federation.roster": ("kitchen", "garage"),
    "run.target_accuracy": 0.9,
    "run.strategy": "fastest",
    "run.rule": "median",
    "run.rule_parameters": {},
    "run.server_optimizer": "fedavgm",
    "run.server_parameters": {},
    "run.codec": "int8",
    "run.downlink": "int8",
    "run.privacy": "central",
    "trainer.backend": "keras",
    "log.level": "debug",
    "broker.host": "other",
    "broker.port": 8884,
}


def changed(config: Config, section: str, **values: Any) -> Config:
    return replace(config, **{section: replace(getattr(config, section), **values)})


def test_nothing_new() -> None:
    assert renewed(CONFIG, CONFIG) == (CONFIG, [], [])


@pytest.mark.parametrize(
    "name", ["peer.control", "peer.train", "peer.priority", "run.epochs", "log.level", "broker.port"]
)
def test_a_choice_is_taken(name: str) -> None:
    section, key = name.split(".")
    before = getattr(getattr(CONFIG, section), key)
    value = OTHERS.get(name, not before if isinstance(before, bool) else 7)
    new = changed(CONFIG, section, **{key: value})
    assert renewed(CONFIG, new) == (new, [f"[{section}] {key}"], [])


@pytest.mark.parametrize(
    "name",
    [
        "peer.name",
        "peer.state_dir",
        "model.artifacts",
        "shard.path",
        "federation.name",
        "federation.roster",
        "federation.min_peers",
        "trainer.backend",
        "trainer.threads",
        "timing.lease_s",
        "limits.peers_max",
    ],
)
def test_what_others_count_on_is_left_and_named_and_the_rest_is_taken(name: str) -> None:
    section, key = name.split(".")
    new = changed(changed(CONFIG, section, **{key: OTHERS.get(name, 13)}), "run", epochs=3)
    assert renewed(CONFIG, new) == (changed(CONFIG, "run", epochs=3), ["[run] epochs"], [f"[{section}] {key}"])


def test_what_does_not_go_with_what_is_left_is_refused_whole() -> None:
    new = changed(CONFIG, "federation", roster=("kitchen", "garage", "roof", "cellar"))
    new = changed(changed(new, "run", updates_min=4), "log", level="debug")
    with pytest.raises(ConfigError, match=r"updates_min = 4.*roster has only 3 peers.*\[federation\] roster stay as"):
        renewed(CONFIG, new)


def test_a_peer_without_data_cannot_begin_to_train() -> None:
    old = changed(changed(CONFIG, "shard", path=None), "peer", train=False)
    new = changed(changed(old, "peer", train=True), "shard", path=Path("/shard"))
    with pytest.raises(ConfigError, match=r"\[shard\] path is missing.*\[shard\] path stay as they were: restart it"):
        renewed(old, new)


def test_every_name_is_one_of_the_configuration() -> None:
    for section, keys in RELOADABLE.items():
        assert (keys or frozenset()) <= {it.name for it in fields(SECTIONS[section])}


def test_a_connection_is_made_anew_for_what_it_is_made_with() -> None:
    broker = BrokerSection()
    assert same_connection(broker, replace(broker, reconnect_s_max=5.0, give_up_after_s=60.0))
    assert same_connection(broker, replace(broker, port=1883))
    for other in (
        replace(broker, host="roof"),
        replace(broker, port=1884),
        replace(broker, keepalive_s=3),
        replace(broker, username="kitchen"),
        replace(broker, tls_ca=Path("/ca")),
    ):
        assert not same_connection(broker, other)


def test_other_credentials_in_the_same_files(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("password_file", "tls_ca", "tls_certificate", "tls_key")}
    broker = BrokerSection(**files)
    seen = {credentials(BrokerSection()), credentials(broker)}
    assert len(seen) == 1
    for path in files.values():
        path.write_bytes(b"one")
        seen.add(credentials(broker))
        path.write_bytes(b"two")
        seen.add(credentials(broker))
    assert len(seen) == 9
    assert credentials(broker) in seen


def test_settings_of_a_run_are_all_taken() -> None:
    new = changed(CONFIG, "run", **{it.name: getattr(RunSettings(), it.name) for it in fields(RunSettings)})
    new = changed(new, "run", rounds_max=99, codec="float16", seed=5, target_accuracy=0.75)
    config, taken, left = renewed(CONFIG, new)
    assert config.run == new.run
    assert sorted(taken) == ["[run] codec", "[run] rounds_max", "[run] seed", "[run] target_accuracy"]
    assert left == []


ASKS = "from edge_peer.shell.reload import has_terminal; raise SystemExit(10 + has_terminal())"


def test_a_process_knows_whether_it_has_a_terminal() -> None:
    alone = subprocess.run([sys.executable, "-c", ASKS], start_new_session=True)
    assert alone.returncode == 10
    pid, descriptor = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", ASKS])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 11
    os.close(descriptor)
