"""The broker's settings in docs/operations.md, as they stand: both sides authenticated, each peer its own topics."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_peer.__main__ import main
from edge_peer.config import load_config
from edge_peer.errors import BrokerError
from edge_peer.operator import processes
from edge_peer.operator.broker import LocalBroker, free_port, require_mosquitto
from edge_peer.operator.federation import look
from edge_peer.operator.session import Session
from edge_peer.protocol.messages import Start
from edge_peer.protocol.topics import START
from tests.live.harness import FEDERATION, ROOT, Live

pytestmark = pytest.mark.live
Make = Callable[..., Live]
NAMES = ["peer1", "peer2", "peer3", "operator"]


def openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path) -> None:
    folder.mkdir()
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        "-subj", "/CN=a test's authority", "-keyout", "ca.key", "-out", "ca.crt", folder=folder,
    )  # fmt: skip


def certificate(folder: Path, name: str, address: str = "") -> None:
    openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr", folder=folder,
    )  # fmt: skip
    extension = folder / f"{name}.ext"
    # What a strict check asks for (RFC 5280); Python 3.13 checks so by default.
    lines = ["basicConstraints=CA:FALSE", "keyUsage=critical,digitalSignature", "authorityKeyIdentifier=keyid"]
    extension.write_text("\n".join([*lines, f"subjectAltName=IP:{address}"] if address else lines))
    openssl(
        "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-extfile", extension.name, "-out", f"{name}.crt", folder=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "certs"
    authority(folder)
    certificate(folder, "broker", "127.0.0.1")
    for name in NAMES:
        certificate(folder, name)
    # Mosquitto reads them as its own user.
    for path in [folder, *folder.iterdir()]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


class TlsBroker(LocalBroker):
    """Mosquitto with the settings that the document gives."""

    def __init__(self, folder: Path, program: str, certificates: Path) -> None:
        super().__init__(folder, program)
        self._certificates = certificates
        self.port = free_port()

    def start(self) -> None:
        document = (ROOT / "docs/operations.md").read_text()
        (settings,) = re.findall(r"```\n(listener 8883\n.*?)```", document, re.DOTALL)
        (rules,) = re.findall(r"```\n(pattern .*?)```", document, re.DOTALL)
        (self._folder / "edge-peer.acl").write_text(rules)
        settings = settings.replace("listener 8883", f"listener {self.port} 127.0.0.1")
        settings = settings.replace("/etc/mosquitto/certs", str(self._certificates))
        settings = settings.replace("/etc/mosquitto/edge-peer.acl", str(self._folder / "edge-peer.acl"))
        configuration = self._folder / "mosquitto.conf"
        configuration.write_text(settings + "user root\n")
        self._process = processes.start([self._program, "-c", str(configuration)], self._folder / "mosquitto.log")
        assert self._answers(self._process), (self._folder / "mosquitto.log").read_text()


@pytest.fixture
def broker(tmp_path: Path, certificates: Path) -> Iterator[LocalBroker]:
    it = TlsBroker(tmp_path, require_mosquitto(print), certificates)
    it.start()
    yield it
    it.stop()


def tls(certificates: Path, name: str) -> dict[str, dict[str, str]]:
    files = {"tls_ca": "ca.crt", "tls_certificate": f"{name}.crt", "tls_key": f"{name}.key"}
    return {"broker": {key: str(certificates / file) for key, file in files.items()}}


@pytest.fixture
def fleet(live: Make, small: Path, certificates: Path) -> Live:
    it = live(small, 3, {"run": {"rounds_max": 3}})
    it.configure(**{peer: tls(certificates, peer) for peer in it.peers})
    return it


def test_a_run_over_tls_and_nobody_writes_under_another_name(
    fleet: Live, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(fleet.fleet.configuration("peer2"))
    assert main(["check", "--config", str(fleet.fleet.configuration("peer2"))]) == 0
    assert "TLS, both sides authenticated" in capsys.readouterr().out
    fleet.start()
    with Session(config.broker, FEDERATION, "peer2") as session:
        federation = look(session)
        while (document := federation.round) is None or not document.complete:
            for it in session.take(60) or pytest.fail("nothing came for a minute"):
                federation.take(*it)
        assert document.reason == "reached 3 rounds"
        # peer2's certificate, under its own name and then under peer1's.
        session.subscribe([START])
        session.publish(START, Start(5))
        session.name = "peer1"
        with pytest.raises(BrokerError, match=r"does not let peer1 write .* \(Not authorized\)"):
            session.publish(START, Start(6))
        session.name = "peer2"
        session.publish(START, Start(7))
        seen = []
        while ("peer2", 7) not in seen:
            documents = session.take(60)
            assert documents, f"nothing came for a minute; so far {seen}"
            seen += [(peer, it.after) for peer, _, it in documents if isinstance(it, Start)]
        assert not any(peer == "peer1" for peer, _ in seen), "the broker has refused what came under another's name"


def test_another_authority_is_a_clear_error(
    fleet: Live, tmp_path: Path, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority(tmp_path / "other")
    wrong = tls(certificates, "peer1")
    wrong["broker"]["tls_ca"] = str(tmp_path / "other" / "ca.crt")
    fleet.configure(peer1=wrong)
    assert main(["check", "--config", str(fleet.fleet.configuration("peer1"))]) == 3
    assert "certificate refused" in capsys.readouterr().out


def test_another_host_name_is_a_clear_error(
    fleet: Live, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tls(certificates, "peer1")
    wrong["broker"]["host"] = "localhost"
    fleet.configure(peer1=wrong)
    assert main(["check", "--config", str(fleet.fleet.configuration("peer1"))]) == 3
    said = capsys.readouterr().out
    assert "certificate refused" in said
    assert "localhost" in said


def test_without_a_certificate_nobody_gets_in(fleet: Live, certificates: Path, tmp_path: Path) -> None:
    authority(tmp_path / "other")
    certificate(tmp_path / "other", "peer1")
    wrong = tls(tmp_path / "other", "peer1")
    wrong["broker"]["tls_ca"] = str(certificates / "ca.crt")
    fleet.configure(peer1=wrong)
    assert main(["check", "--config", str(fleet.fleet.configuration("peer1"))]) == 3


def test_a_certificate_of_another_name_is_a_clear_error(
    fleet: Live, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.configure(peer1=tls(certificates, "peer2"))
    assert main(["check", "--config", str(fleet.fleet.configuration("peer1"))]) == 3
    said = capsys.readouterr().out
    assert "does not let peer1 write" in said
    assert "common name must be the peer's name" in said


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_tls_file_that_is_of_no_use_is_named(
    fleet: Live, certificates: Path, tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tls(certificates, "peer1")
    wrong["broker"]["tls_ca"] = str(tmp_path / "mine.crt")
    if content is not None:
        (tmp_path / "mine.crt").write_bytes(content)
    fleet.configure(peer1=wrong)
    for command in ("check", "run"):
        assert main([command, "--config", str(fleet.fleet.configuration("peer1"))]) == 2
        said = capsys.readouterr()
        assert "tls_ca" in said.out + said.err
        assert "make" in said.out + said.err
