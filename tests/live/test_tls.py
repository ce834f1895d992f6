"""The broker as the role deploys it, with the certificates that `make certs` makes: who gets in, and what is said."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from edge_peer.__main__ import main
from edge_peer.config import BrokerSection, load_config
from edge_peer.errors import BrokerError, ConfigError
from edge_peer.operator.certificates.folder import Folder, Lifetimes, Step
from edge_peer.operator.certificates.x509 import Wanted
from edge_peer.operator.live.federation import Federation, look
from edge_peer.operator.live.session import Session
from edge_peer.operator.local import processes
from edge_peer.operator.local.broker import HOST, LocalBroker, free_port, require_mosquitto
from edge_peer.protocol.messages import Round, Start
from edge_peer.protocol.topics import START
from tests.live.harness import FEDERATION, ROOT, Live

pytestmark = pytest.mark.live
Make = Callable[..., Live]
ROLE = ROOT / "ansible/roles/broker"
NOW = datetime.now(timezone.utc)
PEERS = ["peer1", "peer2", "peer3"]
WANTED = [Wanted("broker.here", server=True, addresses=(HOST,)), *map(Wanted, PEERS), Wanted("operator")]


#: Anybody may vote: the name need not be on the harness's roster.
ALONE = {"federation": {"roster": None}}


def authority(folder: Path, now: datetime = NOW, **lifetimes: int) -> Folder:
    return Folder(folder, now, Lifetimes(**lifetimes), print)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet's, and `late`, which has expired."""
    folder = tmp_path_factory.mktemp("tls") / "pki"
    authority(folder).make(WANTED)
    authority(folder, NOW - timedelta(days=40), days=30, renew_days=1).make([Wanted("late")])
    return folder


class TlsBroker(LocalBroker):
    """Mosquitto with the settings of the role."""

    def __init__(self, folder: Path, certificates: Path, **settings: Any) -> None:
        super().__init__(folder, require_mosquitto(print))
        self.settings = settings
        self.certificates = certificates
        self.port = free_port()
        self.tls = folder / "tls"

    def deploy(self) -> None:
        """As the role copies them."""
        self.tls.mkdir(parents=True, exist_ok=True)
        for name, target in (
            ("ca.crt", "ca.crt"),
            ("broker.here.crt", "broker.crt"),
            ("broker.here.key", "broker.key"),
        ):
            shutil.copy(self.certificates / name, self.tls / target)

    def reload(self) -> None:
        """Take up what was deployed; connections that there are stay."""
        os.kill(self.pid, signal.SIGHUP)

    def start(self) -> None:
        if not self.tls.exists():
            self.deploy()
        given = {
            **yaml.safe_load((ROLE / "defaults/main.yml").read_text()),
            "broker_port": self.port,
            "broker_dashboard_port": 0,
            "broker_bind_address": HOST,
            "broker_tls_dir": self.tls,
            "broker_acl_file": self._folder / "acl",
            **self.settings,
        }
        (self._folder / "acl").write_text(rendered("acl.j2", given))
        configuration = self._folder / "mosquitto.conf"
        # Ending with this process, which a change of user would prevent.
        configuration.write_text(rendered("mosquitto.conf.j2", given) + "user root\n")
        self._process = processes.start([self._program, "-c", str(configuration)], self._folder / "mosquitto.log")
        assert self._answers(self._process), self.end()

    def end(self) -> str:
        """Its whole log: what it has written when it has ended."""
        self.stop()
        return (self._folder / "mosquitto.log").read_text()


def rendered(name: str, given: dict[str, Any]) -> str:
    """A template as Ansible renders it."""
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return environment.from_string((ROLE / "templates" / name).read_text()).render(given)


@pytest.fixture
def broker(tmp_path: Path, certificates: Path) -> Iterator[TlsBroker]:
    it = TlsBroker(tmp_path, certificates)
    it.start()
    yield it
    it.stop()


def tls(certificates: Path, name: str) -> dict[str, dict[str, str]]:
    files = {"tls_ca": "ca.crt", "tls_certificate": f"{name}.crt", "tls_key": f"{name}.key"}
    return {"broker": {key: str(certificates / file) for key, file in files.items()}}


def section(broker: LocalBroker, certificates: Path, name: str) -> BrokerSection:
    files = {key: Path(value) for key, value in tls(certificates, name)["broker"].items()}
    return BrokerSection(host=HOST, port=broker.port, **files)


def refused(settings: BrokerSection, match: str, name: str = "operator") -> None:
    with pytest.raises((BrokerError, ConfigError), match=match), Session(settings, FEDERATION, name):
        pass


@pytest.fixture
def fleet(live: Make, small: Path, certificates: Path) -> Live:
    it = live(small, 3, {"run": {"rounds_max": 3}})
    it.configure(**{peer: tls(certificates, peer) for peer in it.peers})
    return it


# ---------------------------------------------------------------------- a run


def test_a_run_over_tls_and_nobody_writes_under_another_name(
    fleet: Live, broker: TlsBroker, capsys: pytest.CaptureFixture[str]
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
    assert f"'fl/v1/{FEDERATION}/peer1/start'" in next(it for it in broker.end().splitlines() if "Denied PUBLISH" in it)


# ---------------------------------------------------------------------- rotation


class Rotation:
    """A fleet whose hosts have each their own copy of the certificates, as boards have."""

    def __init__(self, folder: Path, make: Make, shards: Path) -> None:
        self.folder = folder
        self.pki = folder / "pki"
        authority(self.pki).make(WANTED)
        self.broker = TlsBroker(folder / "broker", self.pki)
        self.broker._folder.mkdir()
        self.broker.start()
        # What was under way when the broker ended is said again soon.
        tables = {"run": {"rounds_max": 1000}, "broker": {"reconnect_s_max": 0.5}, "timing": {"resend_s": 0.5}}
        self.fleet = make(shards, 3, tables)
        self.fleet.configure(**{peer: self._own(peer) for peer in PEERS})
        for peer in [*PEERS, "operator"]:
            self.deploy(peer)

    def _own(self, name: str) -> dict[str, dict[str, Any]]:
        own = tls(self.folder / f"tls-{name}", name)
        return {"broker": {**own["broker"], "port": self.broker.port}}

    def section(self, name: str) -> BrokerSection:
        return section(self.broker, self.folder / f"tls-{name}", name)

    def deploy(self, name: str) -> None:
        folder = self.folder / f"tls-{name}"
        folder.mkdir(exist_ok=True)
        for file in ("ca.crt", f"{name}.crt", f"{name}.key"):
            shutil.copy(self.pki / file, folder / file)

    def take_over(self, step: Step) -> None:
        folder = authority(self.pki)
        folder.take_over(step, WANTED)
        folder.make(WANTED)

    def serial(self) -> str:
        """Of the certificate that the broker shows."""
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        own = self.folder / "tls-operator"
        context.load_cert_chain(own / "operator.crt", own / "operator.key")
        with (
            socket.create_connection((HOST, self.broker.port)) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as it,
        ):
            return str(it.getpeercert()["serialNumber"])  # type: ignore[index]

    def reconnect(self) -> None:
        """All connections break, and everybody reads its certificate anew."""
        self.broker.kill()
        self.broker.start()

    def wait_rounds(self, more: int = 1) -> Round:
        """Until so many further rounds have begun, as all three take part."""
        with Session(self.section("operator"), FEDERATION, "operator") as session:
            federation: Federation = look(session)
            first: int | None = None
            while True:
                document = federation.round
                if document is not None and document.run_id is not None and len(document.participants) == len(PEERS):
                    first = document.round if first is None else first
                    if document.round >= first + more:
                        return document
                for it in session.take(60) or pytest.fail("nothing came for a minute"):
                    federation.take(*it)


@pytest.fixture
def rotation(tmp_path: Path, live: Make, small: Path) -> Iterator[Rotation]:
    it = Rotation(tmp_path / "rotation", live, small)
    yield it
    it.broker.stop()


def test_certificates_and_then_the_authority_are_replaced_while_a_run_goes_on(rotation: Rotation) -> None:
    rotation.fleet.start()
    run = rotation.wait_rounds().run_id
    # New certificates under the same authority: in any order, and the broker needs no restart for it.
    before = rotation.serial()
    authority(rotation.pki).make(WANTED, rotate=True)
    rotation.broker.deploy()
    rotation.broker.reload()
    while rotation.serial() == before:
        pass
    assert rotation.wait_rounds().run_id == run
    for name in [*PEERS, "operator"]:
        rotation.deploy(name)
    rotation.reconnect()
    assert rotation.wait_rounds().run_id == run
    # Another authority, host by host: at any time, any two trust each other.
    for step in ("trust", "switch", "forget"):
        rotation.take_over(step)
        rotation.deploy("peer1")
        rotation.reconnect()
        assert rotation.wait_rounds().run_id == run, f"{step}: peer1 has it, the others have not"
        rotation.broker.deploy()
        rotation.reconnect()
        assert rotation.wait_rounds().run_id == run, f"{step}: the broker and peer1 have it"
        for name in ["peer2", "peer3", "operator"]:
            rotation.deploy(name)
    rotation.reconnect()
    assert rotation.wait_rounds().run_id == run
    assert not rotation.fleet.fleet.exited()
    assert (rotation.pki / "ca.crt").read_bytes().count(b"BEGIN") == 1


def test_a_reload_takes_new_certificates_and_nobody_is_gone_meanwhile(rotation: Rotation) -> None:
    fleet = rotation.fleet
    fleet.start()
    begun = rotation.wait_rounds()

    def reload(*peers: str, until: str, times: int) -> None:
        for peer in peers:
            os.kill(fleet.fleet.processes[peer].pid, signal.SIGHUP)
        while any(fleet.fleet.log(peer).read_text().count(until) < times for peer in peers):
            rotation.wait_rounds()

    # The same files: the connection is as good as it was.
    reload("peer1", until="nothing new for this process", times=1)
    authority(rotation.pki).make(WANTED, rotate=True)
    # Half of a pair, as while it is being copied: the old connection is kept.
    shutil.copy(rotation.pki / "peer1.crt", rotation.folder / "tls-peer1" / "peer1.crt")
    reload("peer1", until="is not taken, nothing has changed", times=1)
    assert "is not the key of tls_certificate" in fleet.fleet.log("peer1").read_text()
    assert fleet.fleet.log("peer1").read_text().count("connected to") == 1
    for peer in PEERS:
        rotation.deploy(peer)
    reload(*PEERS, until="connected to", times=2)
    now = rotation.wait_rounds()
    # Nobody was taken for gone: it is the same controller's term.
    assert (now.run_id, now.term) == (begun.run_id, begun.term)
    assert not any("connection lost" in fleet.fleet.log(peer).read_text() for peer in PEERS)


def test_certificates_of_the_former_authority_are_refused_once_it_is_forgotten(
    tmp_path: Path, certificates: Path
) -> None:
    folder = tmp_path / "pki"
    shutil.copytree(certificates, folder)
    for step in ("trust", "switch", "forget"):
        authority(folder).take_over(step, WANTED)
        authority(folder).make(WANTED)
    broker = TlsBroker(tmp_path, folder)
    broker.start()
    try:
        former = replace(section(broker, certificates, "operator"), tls_ca=folder / "ca.crt")
        refused(former, r"refuses this peer's certificate \(unknown ca\): .* the broker's cafile has not signed it")
    finally:
        broker.stop()


# ---------------------------------------------------------------------- what is wrong on the broker's side


def test_another_authority_is_a_clear_error(
    fleet: Live, tmp_path: Path, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority(tmp_path / "other").make(WANTED)
    wrong = tls(certificates, "peer1")
    wrong["broker"]["tls_ca"] = str(tmp_path / "other" / "ca.crt")
    fleet.configure(peer1=wrong)
    assert main(["check", "--config", str(fleet.fleet.configuration("peer1"))]) == 3
    said = capsys.readouterr().out
    assert "its certificate is refused" in said
    assert f"[broker] tls_ca = '{tmp_path / 'other' / 'ca.crt'}' has not signed it; take" in said


def test_another_host_name_is_a_clear_error(broker: TlsBroker, certificates: Path) -> None:
    wrong = replace(section(broker, certificates, "operator"), host="localhost")
    refused(wrong, r"Hostname mismatch.*\[broker\] host = 'localhost' is none of the names in it; write one that is")


def with_certificates_of(tmp_path: Path, now: datetime) -> TlsBroker:
    folder = tmp_path / "pki"
    authority(folder, now, days=30, renew_days=1).make(WANTED)
    return TlsBroker(tmp_path, folder)


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (
            NOW - timedelta(days=31),
            r"certificate has expired: this board's clock says \d{4}-.*; if that is right, make the broker's",
        ),
        # Boards whose clock has not been set yet: ten years of slack are not enough.
        (
            NOW + timedelta(days=4000),
            r"certificate is not yet valid: this board's clock says .*; set the clock \(timedatectl\)",
        ),
    ],
)
def test_a_broker_whose_certificate_is_not_valid_now_is_a_clear_error(
    tmp_path: Path, made: datetime, match: str
) -> None:
    broker = with_certificates_of(tmp_path, made)
    broker.start()
    try:
        refused(section(broker, tmp_path / "pki", "operator"), match)
    finally:
        broker.stop()


def test_a_broker_without_tls_is_a_clear_error(tmp_path: Path, certificates: Path) -> None:
    plain = LocalBroker(tmp_path, require_mosquitto(print))
    plain.start()
    try:
        refused(
            section(plain, certificates, "operator"),
            rf"no TLS is spoken there .*\[broker\] port = {plain.port} must be that of the broker's TLS listener",
        )
    finally:
        plain.stop()


# ---------------------------------------------------------------------- what is wrong on the peer's side


def test_a_peer_without_tls_is_told_of_it(broker: TlsBroker) -> None:
    refused(
        BrokerSection(host=HOST, port=broker.port),
        rf"before it answered .* if \[broker\] port = {broker.port} is that of a TLS listener, set tls_ca, tls_cert",
    )


def test_a_stranger_without_a_certificate_is_refused_and_the_log_says_so(broker: TlsBroker, certificates: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"), hello(broker, context) as it:
        it.recv(1)
    assert "peer did not return a certificate" in broker.end()


def test_tls_of_the_last_decade_is_refused(broker: TlsBroker, certificates: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    context.load_cert_chain(certificates / "operator.crt", certificates / "operator.key")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"), hello(broker, context) as it:
        it.recv(1)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with hello(broker, context) as it:
        assert it.version() == "TLSv1.2"


def hello(broker: TlsBroker, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection((HOST, broker.port), timeout=10), server_hostname=HOST)


def test_a_stranger_of_another_authority_is_refused_and_the_log_says_so(
    broker: TlsBroker, certificates: Path, tmp_path: Path
) -> None:
    authority(tmp_path / "other").make(WANTED)
    wrong = replace(section(broker, tmp_path / "other", "peer1"), tls_ca=certificates / "ca.crt")
    refused(wrong, r"refuses this peer's certificate \(unknown ca\): \[broker\] tls_certificate = '.*/other/peer1.crt'")
    assert "certificate verify failed" in broker.end()


def test_an_expired_certificate_is_refused_and_the_log_says_so(broker: TlsBroker, certificates: Path) -> None:
    refused(section(broker, certificates, "late"), r"\(certificate expired\): .*late.crt': make it anew \(make certs\)")
    assert "certificate verify failed" in broker.end()


def test_the_brokers_certificate_makes_no_client(broker: TlsBroker, certificates: Path) -> None:
    wrong = section(broker, certificates, "broker.here")
    refused(wrong, r"\(unsupported certificate\): .* it is not made for clients")


def test_a_peers_certificate_makes_no_broker(tmp_path: Path, certificates: Path) -> None:
    broker = TlsBroker(tmp_path, certificates)
    broker.deploy()
    for ending in ("crt", "key"):
        shutil.copy(certificates / f"peer1.{ending}", broker.tls / f"broker.{ending}")
    broker.start()
    try:
        refused(section(broker, certificates, "operator"), "its certificate is refused: unsuitable certificate purpose")
    finally:
        broker.stop()


def test_a_key_of_another_certificate_is_a_clear_error(broker: TlsBroker, certificates: Path) -> None:
    wrong = replace(section(broker, certificates, "peer1"), tls_key=certificates / "peer2.key")
    refused(wrong, r"\[broker\] tls_key = '.*peer2.key' is not the key of tls_certificate = '.*peer1.crt': copy both")


def test_a_key_with_a_password_is_a_clear_error_and_nobody_is_asked_for_it(
    broker: TlsBroker, certificates: Path, tmp_path: Path
) -> None:
    key = load_pem_private_key((certificates / "peer1.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "locked.key").write_bytes(locked)
    wrong = replace(section(broker, certificates, "peer1"), tls_key=tmp_path / "locked.key")
    refused(wrong, r"\[broker\] tls_key = '.*locked.key' needs a password, and nobody is there to give it")


def run(fleet: Live, peer: str) -> str:
    """What `edge-peer run` says that ends at once because of the configuration."""
    command = [sys.executable, "-m", "edge_peer", "run", "--config", str(fleet.fleet.configuration(peer))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_a_certificate_of_another_name_is_a_clear_error_at_the_start(
    fleet: Live, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.configure(peer1=tls(certificates, "peer2"))
    assert main(["check", "--config", str(fleet.fleet.configuration("peer1"))]) == 2
    checked = capsys.readouterr().out
    for said in (checked, run(fleet, "peer1")):
        assert "peer2.crt': its common name is 'peer2', but [peer] name = 'peer1'" in said
        assert "make certs" in said
    # An operator may use another's to look; what it may write is the broker's decision.
    assert "does not let peer1 write" in checked
    assert "common name must be the peer's name" in checked


def test_check_says_how_long_the_certificate_lasts(
    fleet: Live, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, code, words in (("peer1", 0, "ok    certificate: peer1's, 824 days left"), ("late", 2, "expired on")):
        own = tls(certificates, name)
        fleet.peers = [name]
        fleet.configure(**{name: {**own, "shard": {"path": str(fleet.shards / "peer1.safetensors")}, **ALONE}})
        assert main(["check", "--config", str(fleet.fleet.configuration(name))]) == code
        assert words in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_tls_file_that_is_of_no_use_is_named(
    fleet: Live, certificates: Path, tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tls(certificates, "peer1")
    wrong["broker"]["tls_ca"] = str(tmp_path / "mine.crt")
    if content is not None:
        (tmp_path / "mine.crt").write_bytes(content)
    fleet.configure(peer1=wrong)
    assert main(["check", "--config", str(fleet.fleet.configuration("peer1"))]) == 2
    for said in (capsys.readouterr().out, run(fleet, "peer1")):
        assert "tls_ca" in said
        assert "make" in said
