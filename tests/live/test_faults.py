"""Deaths of controllers, trainers and brokers in the middle of real runs."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from edge_peer.operator.local import processes
from edge_peer.operator.local.broker import LocalBroker, free_port
from edge_peer.protocol.messages import FINISHED, TRAINING, Round
from tests.live.harness import TIMEOUT_S, Live

pytestmark = pytest.mark.live
Make = Callable[..., Live]

#: One peer that leads and one that takes over, neither with a hand in the updates; and three that train.
LEADER_AND_DEPUTY = {
    "peer1": {"peer": {"priority": 500_000.0, "train": False}},
    "peer2": {"peer": {"priority": 400_000.0, "train": False}},
}


def undisturbed_then_round(it: Live, number: int) -> tuple[Round, Round]:
    """The end of a whole run; then the same again from nothing, up to the training of round `number`."""
    it.start()
    undisturbed = it.wait_finished()
    it.stop()
    for peer in it.peers:
        (it.fleet.state_dir(peer) / "state.json").unlink()
        (it.fleet.state_dir(peer) / "checkpoint.safetensors").unlink()
    it.watch()
    it.start()
    before = it.wait(
        lambda doc: (
            doc is not None and doc.run_id != undisturbed.run_id and doc.state == TRAINING and doc.round == number
        ),
        f"round {number} of the second run",
    )
    return undisturbed, before


def in_the_model(it: Live, end: Round) -> list[int]:
    """The rounds whose commits lead to the final model; one that nobody had heard of is made again by the next one."""
    by_model = {line["sha256"]: line for line in it.committed(str(end.run_id))}
    assert end.base is not None
    rounds = []
    line = by_model.get(end.base.sha256)
    while line is not None:
        rounds.append(line["round"])
        line = by_model.get(line["base"])
    return rounds[::-1]


def test_the_controllers_death_changes_no_byte_of_the_result(live: Make, small: Path, tmp_path: Path) -> None:
    """Killed in the middle of a round; the trainers' updates are sent again to the next one, not made again."""
    it = live(small, 5, {"run": {"rounds_max": 8, "updates_min": 3}, "federation": {"min_peers": 3}})
    it.configure(**LEADER_AND_DEPUTY)
    undisturbed, before = undisturbed_then_round(it, 4)
    assert it.federation.controller == "peer1"
    it.fleet.kill("peer1")
    after = it.wait(
        lambda doc: it.federation.controller == "peer2" and doc is not None and doc.run_id is not None, "the next one"
    )
    assert after.run_id == before.run_id
    assert after.term > before.term
    assert after.round in (4, 5)
    end = it.wait_finished()
    it.stop()
    assert end.run_id == before.run_id
    assert end.base is not None
    assert undisturbed.base is not None
    assert end.base.sha256 == undisturbed.base.sha256
    assert in_the_model(it, end) == list(range(1, 9)), "each round once"


def test_a_training_controllers_death_costs_less_than_a_point(live: Make, large: Path) -> None:
    it = live(large, 4, {"run": {"rounds_max": 10, "learning_rate": 0.05}})
    it.configure()
    undisturbed, before = undisturbed_then_round(it, 3)
    victim = it.federation.controller
    assert victim is not None
    it.fleet.kill(victim)
    it.wait(lambda doc: it.federation.controller not in (None, victim), "another controller")
    it.start(victim)
    end = it.wait_finished()
    assert end.run_id == before.run_id
    assert set(end.reports) == set(it.peers), "the killed one is back"
    assert end.accuracy == pytest.approx(undisturbed.accuracy, abs=0.01)
    it.stop()
    rounds = [int(row["round"]) for row in it.rows(victim, str(end.run_id))]
    assert rounds == sorted(set(rounds)), "no round twice in the CSV of the one that was started again"
    assert rounds[-1] == 10


def test_a_controller_that_shuts_down_hands_over_at_once(live: Make, small: Path) -> None:
    it = live(small, 3, {"run": {"rounds_max": 100_000}})
    it.configure()
    it.start()
    before = it.wait_round(2)
    leader = it.federation.controller
    assert leader is not None
    it.fleet.processes[leader].send_signal(signal.SIGTERM)
    after = it.wait(lambda doc: it.federation.controller not in (None, leader) and doc is not None, "the next one")
    assert after.term == before.term + 1
    assert it.wait_round(before.round + 2).run_id == before.run_id
    assert it.fleet.processes[leader].wait(TIMEOUT_S) == 0


def test_a_hung_controller_is_replaced_and_steps_down_when_it_wakes_up(live: Make, small: Path) -> None:
    """Its TCP connection stays open: only the lease tells. Short times, so that the test is."""
    timing = {"lease_s": 2.0, "resend_s": 1.0, "grace_s": 0.3}
    it = live(small, 3, {"run": {"rounds_max": 100_000}, "timing": timing, "broker": {"keepalive_s": 2}})
    it.configure()
    it.start()
    before = it.wait_round(2)
    leader = it.federation.controller
    assert leader is not None
    it.fleet.processes[leader].send_signal(signal.SIGSTOP)
    after = it.wait(lambda doc: doc is not None and doc.term > before.term and doc.round > before.round, "the next one")
    woken = datetime.now(timezone.utc)
    it.fleet.processes[leader].send_signal(signal.SIGCONT)
    back = it.wait(
        lambda doc: doc is not None and leader in doc.participants and doc.round > after.round, "it trains again"
    )
    assert back.run_id == before.run_id
    assert it.federation.controller != leader
    it.stop()
    commits = [line for line in it.committed(str(before.run_id)) if line["term"] == before.term]
    assert commits
    assert all(datetime.fromisoformat(line["time_utc"]) < woken for line in commits), "it commits nothing after that"


def test_a_trainers_death_holds_up_nobody(live: Make, small: Path) -> None:
    it = live(small, 4, {"run": {"rounds_max": 12}})
    it.configure(peer1={"peer": {"priority": 500_000.0}})
    it.start()
    it.wait_round(3)
    it.fleet.kill("peer4")
    end = it.wait_finished()
    it.stop()
    lines = it.committed(str(end.run_id))
    assert len(lines) == 12
    assert "peer4" not in lines[-1]["accepted"]
    assert lines[-1]["missing"]["peer4"] == "offline"
    assert "deadline" not in it.fleet.log("peer1").read_text(), "no round waited for it"
    assert set(end.reports) == {"peer1", "peer2", "peer3"}


def test_a_late_peer_joins_and_one_that_leaves_is_missed_by_nobody(live: Make, small: Path) -> None:
    it = live(small, 4, {"run": {"rounds_max": 100_000}, "federation": {"min_peers": 3}})
    it.configure(peer1={"peer": {"priority": 500_000.0}})
    it.start("peer1", "peer2", "peer3")
    first = it.wait_round(3)
    assert first.participants == ("peer1", "peer2", "peer3")
    assert first.missing == {"peer4": "offline"}
    it.start("peer4")
    joined = it.wait(lambda doc: doc is not None and "peer4" in doc.participants, "peer4 trains")
    assert joined.run_id == first.run_id
    it.wait(lambda doc: doc is not None and "peer4" in doc.closed_accepted, "its update is in")
    it.fleet.processes["peer2"].send_signal(signal.SIGTERM)
    it.wait(lambda doc: doc is not None and doc.round > joined.round and "peer2" not in doc.participants, "it left")
    assert it.fleet.processes["peer2"].wait(TIMEOUT_S) == 0
    it.stop()
    assert int(it.rows("peer4", str(first.run_id))[0]["round"]) >= 3, "rounds before it came are not its own"


def test_the_brokers_death_without_storage_loses_no_run(live: Make, small: Path, broker: LocalBroker) -> None:
    it = live(small, 3, {"run": {"rounds_max": 40}})
    it.configure()
    it.start()
    before = it.wait_round(5)
    it.close()
    broker.kill()
    broker.start()
    it.watch()
    after = it.wait_round(1)
    assert after.run_id == before.run_id
    assert after.round >= before.round
    end = it.wait_finished()
    assert end.run_id == before.run_id
    it.stop()
    assert in_the_model(it, end) == list(range(1, 41))


def test_everything_dies_and_the_run_goes_on_from_the_disks(live: Make, small: Path, broker: LocalBroker) -> None:
    it = live(small, 3, {"run": {"rounds_max": 30}})
    it.configure()
    it.start()
    before = it.wait_round(8)
    it.close()
    for peer in it.peers:
        it.fleet.kill(peer)
    broker.kill()
    broker.start()
    it.watch()
    it.start()
    after = it.wait_round(1)
    assert after.run_id == before.run_id
    assert after.round >= 7, "at most the round that was open is made again"
    end = it.wait_finished()
    assert end.run_id == before.run_id
    assert end.round == 30


def test_without_a_broker_it_keeps_trying_and_gives_up_at_the_limit(live: Make, small: Path) -> None:
    it = live(small, 1, {"broker": {"port": free_port(), "give_up_after_s": 2.0}, "federation": {"roster": None}})
    it.configure()
    it.start()
    assert it.fleet.processes["peer1"].wait(TIMEOUT_S) == 3
    log = it.fleet.log("peer1").read_text()
    assert log.count("no broker (") == 1, "it complains once a minute, not at every try"
    assert "give_up_after_s" in log.splitlines()[-1]


def test_waits_for_a_broker_that_comes_later(live: Make, small: Path, broker: LocalBroker) -> None:
    it = live(small, 3, {"run": {"rounds_max": 2}, "broker": {"reconnect_s_max": 0.5}})
    broker.kill()
    it.configure()
    it.start()
    with socket.create_server(("127.0.0.1", broker.port)) as listener:
        for _ in it.peers:
            # Each of them has tried, and been turned away.
            listener.accept()[0].close()
    broker.start()
    assert it.wait_finished().state == FINISHED


def test_two_processes_of_one_name_do_not_fight(live: Make, small: Path) -> None:
    it = live(small, 3, {"run": {"rounds_max": 100_000}})
    it.configure()
    it.start()
    it.wait_round(2)
    first = it.fleet.processes["peer3"]
    it.fleet.configure(
        "peer3",
        {
            "shard": {"path": str(small / "peer3.safetensors")},
            "peer": {"state_dir": str(it.fleet.state_dir("second"))},
        },
    )
    it.start("peer3")
    assert first.wait(TIMEOUT_S) == 4
    assert "another process connected as peer3" in it.fleet.log("peer3").read_text()
    with pytest.raises(subprocess.TimeoutExpired):
        it.fleet.processes["peer3"].wait(1)


def test_a_peer_whose_disk_is_full_says_so_and_the_others_go_on(live: Make, small: Path) -> None:
    """A limit on file size stands for the disk: the state fits, the checkpoint of 107 kB does not."""
    it = live(small, 4, {"run": {"rounds_max": 4}, "federation": {"min_peers": 3}})
    it.configure(peer4={"peer": {"priority": 500_000.0}})
    command = f"ulimit -f 64; exec {sys.executable} -m edge_peer run --config {it.fleet.configuration('peer4')}"
    full = processes.start(["bash", "-c", command], it.fleet.log("peer4"))
    it.start("peer1", "peer2", "peer3")
    end = it.wait_finished()
    assert full.wait(TIMEOUT_S) == 2
    assert "checkpoint.safetensors: cannot be written" in it.fleet.last_lines("peer4", 1)
    assert "free some space" in it.fleet.last_lines("peer4", 1)
    assert it.federation.presences["peer4"].online is False, "its will was published"
    assert set(end.reports) == {"peer1", "peer2", "peer3"}


#: CONNACK of MQTT 5: accepted, no properties.
CONNACK = bytes([0x20, 3, 0, 0, 0])


def test_a_broker_that_accepts_and_drops_is_asked_ever_more_seldom(live: Make, small: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        it = live(small, 3, {"broker": {"port": listener.getsockname()[1]}})
        it.configure()
        it.start("peer1")
        listener.settimeout(TIMEOUT_S)
        for _ in range(5):
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                pytest.fail(f"it does not connect:\n{it.fleet.last_lines('peer1')}")
            connection.settimeout(TIMEOUT_S)
            connection.recv(65536)
            connection.sendall(CONNACK)
            connection.close()
        it.stop()
    log = it.fleet.log("peer1").read_text()
    assert log.count("no broker (") == 1, "the complaint is not repeated at each try"
    assert log.count("connected to") >= 4


def test_a_peer_without_an_interpreter_ends_and_says_what_to_install(live: Make, small: Path) -> None:
    it = live(small, 3, {"run": {"rounds_max": 2}, "federation": {"min_peers": 2}})
    it.configure(peer3={"peer": {"priority": 500_000.0}})
    program = (
        "import sys; sys.modules['ai_edge_litert.interpreter'] = sys.modules['tflite_runtime.interpreter'] = None; "
        "from edge_peer.__main__ import main; sys.exit(main(['run', '--config', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", program, str(it.fleet.configuration("peer3"))]
    bare = processes.start(command, it.fleet.log("peer3"))
    it.start("peer1", "peer2")
    end = it.wait_finished()
    assert set(end.reports) >= {"peer1", "peer2"}
    assert bare.wait(TIMEOUT_S) == 2
    assert "no TFLite interpreter is installed: pip install" in it.fleet.last_lines("peer3", 1)
