"""`make status` against a real broker that wants certificates, and real peers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_peer.operator.fleet.status import main
from edge_peer.operator.fleet.watch import main as watch
from edge_peer.operator.local.broker import HOST
from tests.live.harness import FEDERATION, Live
from tests.live.test_tls import TlsBroker, broker, certificates, fleet  # noqa: F401 - fixtures

pytestmark = pytest.mark.live


def test_boards_and_broker_are_asked(
    fleet: Live,  # noqa: F811
    broker: TlsBroker,  # noqa: F811
    certificates: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = tmp_path / "status"
    status.mkdir()
    address = {"host": HOST, "port": broker.port}
    hosts = [*fleet.peers, "attic"]
    (status / "fleet.json").write_text(json.dumps({"hosts": hosts, "federation": FEDERATION, "broker": address}))
    pem = (certificates / "peer1.crt").read_text()
    (status / "peer1.json").write_text(json.dumps({"unit": {"ActiveState": "active"}, "certificate": pem}))
    arguments = ["--status", str(status), "--pki", str(certificates)]
    fleet.start()
    while True:
        code = main([*arguments, "--json"])
        document = json.loads(capsys.readouterr().out)
        if document["round"] is not None and document["round"]["complete"]:
            break
    assert code == 1, "attic does not answer"
    assert document["broker"] == "answers"
    boards = document["boards"]
    assert {name: it["state"] for name, it in boards.items()} == {
        "attic": "no answer", "peer1": "up", "peer2": "online", "peer3": "online",
    }  # fmt: skip
    assert document["controller"] in fleet.peers
    assert boards[document["controller"]]["role"] == "controller"
    assert all(0 < boards[peer]["accuracy"] < 1 for peer in fleet.peers)
    assert boards["peer1"]["certificate_days"] > 30
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert f"controller {document['controller']}, term" in said
    assert "attic: does not answer to SSH" in said
    # The same as it happens: in a pipe, lines.
    watching = subprocess.Popen(
        [sys.executable, "-m", "edge_peer.operator.fleet.watch", *arguments], stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - there are no threads here
    )  # fmt: skip
    assert watching.stdout is not None
    assert f"controller {document['controller']}, term" in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 0
    watching.stdout.close()
    broker.stop()
    assert watch(arguments) == 3
    assert watch(["--status", str(tmp_path), "--pki", str(certificates)]) == 2
    assert "nobody told where it is" in capsys.readouterr().err
    assert main(arguments) == 1
    assert f"broker: {HOST}:{broker.port}" in " ".join(capsys.readouterr().out.split())
