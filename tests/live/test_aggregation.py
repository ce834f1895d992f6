"""Rules, server optimizers, codecs, SCAFFOLD and privacy in runs of real processes, and what SIGKILL costs of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from aggregator_core.privacy_accountant import epsilon
from aggregator_core.rules import RULES
from edge_peer.protocol.messages import TRAINING, Presence, Round
from edge_peer.shell.class_counts import CLASSES
from tests.live.harness import ARTIFACTS, Live

pytestmark = pytest.mark.live
Make = Callable[..., Live]
BASE = {"rounds_max": 3, "epochs": 2, "round_deadline_s": 60.0, "seed": 5}
#: Every rule, and with it every codec, up and down: (peers, what the run is made with).
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "fedavg": (3, {"codec": "float16"}),
    "staleness": (3, {"codec": "int8", "rule_parameters": {"exponent": 1.0}}),
    "fednova": (3, {"codec": "int8", "downlink": "int8", "proximal": 0.1}),
    "qfedavg": (3, {"codec": "int4", "rule_parameters": {"q": 0.5}}),
    "median": (3, {"codec": "int4", "error_feedback": True}),
    "trimmed_mean": (3, {"codec": "topk-0.05", "error_feedback": True, "downlink": "float16"}),
    "norm_clipping": (3, {"downlink": "float32", "rule_parameters": {"norm_max": 5.0}}),
    "adaptive_clipping": (3, {"codec": "int8", "downlink": "int4"}),
    "krum": (5, {"codec": "int8"}),
    "multi_krum": (5, {"codec": "float32", "downlink": "int8"}),
    "bulyan": (3, {"codec": "int8", "rule_parameters": {"byzantine": 0}}),
    "geometric_median": (3, {"codec": "int8"}),
    "centered_clipping": (3, {"codec": "topk-0.5", "error_feedback": True}),
}
OPTIMIZERS: dict[str, dict[str, float]] = {
    "fedavgm": {"momentum": 0.5},
    "fedadagrad": {"learning_rate": 0.03},
    "fedadam": {"learning_rate": 0.03},
    "fedyogi": {"learning_rate": 0.03},
}


def run_of(it: Live, **own: Any) -> Round:
    """Start all, and see the run to its end."""
    it.configure(**own)
    it.start()
    return it.wait_finished()


def final_models(it: Live, run_id: str) -> set[str]:
    """Digests of the final models on all peers' disks."""
    return {
        hashlib.sha256((it.run_folder(peer, run_id) / "model.safetensors").read_bytes()).hexdigest()
        for peer in it.peers
    }


def test_every_rule_is_run() -> None:
    assert set(RUNS) == set(RULES)


@pytest.mark.parametrize("rule", RUNS)
def test_a_run_with_every_rule_and_codec(live: Make, small: Path, rule: str) -> None:
    peers, settings = RUNS[rule]
    it = live(small, peers, {"run": {**BASE, "updates_min": peers, "rule": rule, **settings}})
    end = run_of(it)
    assert end.reason == "reached 3 rounds"
    assert end.settings.rule == rule
    it.stop()
    lines = it.committed(str(end.run_id))
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert all(set(line["accepted"]) == set(it.peers) for line in lines)
    assert {it["codec"] for line in lines for it in line["accepted"].values()} == {settings.get("codec", "int8")}
    assert len(final_models(it, str(end.run_id))) == 1, "every peer ends with the same model"
    assert end.accuracy is not None
    assert end.accuracy > 0.25, "it learns: chance is 0.1"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_killed_controller_changes_no_bit_of_a_run_with_a_server_optimizer(
    live: Make, small: Path, optimizer: str
) -> None:
    """The next one goes on from the optimizer's state and the residuals that the last one left."""
    settings = {
        **BASE,
        "rounds_max": 4,
        "updates_min": 3,
        "server_optimizer": optimizer,
        "server_parameters": OPTIMIZERS[optimizer],
        "codec": "int4",
        "error_feedback": True,
        "downlink": "int8",
    }
    it = live(small, 3, {"run": settings})
    whole = run_of(it)
    first = final_models(it, str(whole.run_id))
    it.stop()
    killed = kill_in_the_middle(it, "controller")
    it.stop()
    assert whole.base is not None
    assert killed.base is not None
    assert killed.base.sha256 == whole.base.sha256
    assert final_models(it, str(killed.run_id)) != first, "the file also names the run"
    model = load_file(it.run_folder("peer1", str(killed.run_id)) / "model.safetensors")
    slots = {name for name in model if name.startswith("server_state/")}
    assert slots == (
        {"server_state/momentum"} if optimizer == "fedavgm" else {"server_state/mean", "server_state/square"}
    )


def kill_in_the_middle(it: Live, whom: str) -> Round:
    """A run of the same settings, in which a peer is killed in the second round and started again."""
    it.start()
    before = {str(doc.run_id) for _, _, doc in it.seen if isinstance(doc, Round)}
    it.watch()
    running = it.wait(
        lambda doc: doc is not None and doc.state == TRAINING and doc.round == 2 and str(doc.run_id) not in before,
        "the second round of another run",
    )
    controller = str(it.federation.controller)
    victim = controller if whom == "controller" else next(peer for peer in it.peers if peer != controller)
    it.fleet.kill(victim)
    it.start(victim)
    return it.wait_finished(running.run_id)


@pytest.mark.parametrize("whom", ["controller", "trainer"])
def test_a_killed_peer_loses_neither_residual_nor_control_variate(live: Make, small: Path, whom: str) -> None:
    settings = {
        **BASE,
        "rounds_max": 4,
        "updates_min": 3,
        "scaffold": True,
        "codec": "topk-0.1",
        "error_feedback": True,
        "downlink": "float16",
    }
    it = live(small, 3, {"run": settings})
    whole = run_of(it)
    it.stop()
    killed = kill_in_the_middle(it, whom)
    it.stop()
    assert whole.base is not None
    assert killed.base is not None
    assert killed.base.sha256 == whole.base.sha256


def test_who_joins_late_gets_the_whole_model_and_then_only_what_changes(live: Make, small: Path) -> None:
    it = live(
        small,
        4,
        {"run": {**BASE, "rounds_max": 100_000, "downlink": "int8", "codec": "int8"}, "federation": {"min_peers": 3}},
    )
    it.configure()
    it.start("peer1", "peer2", "peer3")
    it.wait_round(5)
    it.start("peer4")
    joined = it.wait(lambda doc: doc is not None and "peer4" in doc.closed_accepted, "an update of the late one")
    it.wait_round(joined.round + 20)
    it.stop()
    run_id = str(joined.run_id)
    size = (ARTIFACTS / "initial.safetensors").stat().st_size
    rows = it.rows("peer4", run_id)
    assert int(rows[0]["round"]) >= 4
    # The first one has the whole model in it, the others deltas of a quarter of its size and small documents.
    received = [int(row["bytes_received"]) for row in rows[3:15]]
    assert max(received) < size, received
    assert int(rows[0]["bytes_received"]) > size


@pytest.mark.parametrize("mode", ["central", "local"])
def test_privacy_tells_what_it_has_cost(live: Make, small: Path, mode: str) -> None:
    it = live(
        small,
        3,
        {
            "run": {
                **BASE,
                "privacy": mode,
                "privacy_clip": 1.0,
                "privacy_noise": 2.0,
                "privacy_delta": 1e-4,
                "codec": "int8",
            }
        },
    )
    end = run_of(it)
    it.stop()
    assert end.epsilon == pytest.approx(epsilon(2.0, 3, 1e-4))
    assert [line["epsilon"] for line in it.committed(str(end.run_id))] == [epsilon(2.0, n, 1e-4) for n in (1, 2, 3)]
    assert not any((it.run_folder(peer, str(end.run_id)) / CLASSES).exists() for peer in it.peers), "no exact counts"
    keys = [it.fleet.state_dir(peer) / "noise.key" for peer in it.peers]
    there = [key for key in keys if key.exists()]
    assert len(there) == (3 if mode == "local" else 1)
    assert all(key.stat().st_mode & 0o777 == 0o600 for key in there)


def test_a_peer_that_promises_privacy_takes_no_part_in_a_run_without(live: Make, small: Path) -> None:
    it = live(small, 3, {"run": {**BASE, "updates_min": 2}, "federation": {"min_peers": 2}})
    it.configure(peer3={"run": {"privacy": "local"}, "peer": {"control": False}})
    it.start()
    end = it.wait_finished()
    it.stop()
    said = [doc for peer, _, doc in it.seen if peer == "peer3" and isinstance(doc, Presence) and doc.note]
    assert said
    assert not any(presence.train or presence.control for presence in said)
    assert all("give all peers the same [run]" in presence.note for presence in said)
    assert all("peer3" not in line["accepted"] for line in it.committed(str(end.run_id)))
    counted = [peer for peer in it.peers if (it.run_folder(peer, str(end.run_id)) / CLASSES).exists()]
    assert "peer3" not in counted
    assert counted


def test_a_rule_that_needs_more_peers_waits_for_them_and_says_so(live: Make, small: Path) -> None:
    settings = {**BASE, "rule": "krum", "updates_min": 1, "rule_parameters": {"byzantine": 1}}
    it = live(small, 5, {"run": settings, "federation": {"min_peers": 1}})
    it.configure()
    it.start("peer1", "peer2", "peer3", "peer4")
    waiting = it.wait(lambda doc: doc is not None and "rule krum needs 5" in doc.reason, "the reason")
    assert waiting.run_id is None
    it.start("peer5")
    assert it.wait_finished().reason == "reached 3 rounds"
