"""A fleet's certificates: who trusts whom, what is made when, who can read it, what a broken-off run leaves."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from edge_peer.errors import ConfigError, EdgePeerError, ResourceError
from edge_peer.operator.certificates.__main__ import main
from edge_peer.operator.certificates.folder import Folder, Lifetimes
from edge_peer.operator.certificates.wanted import read_inventory, wanted
from edge_peer.operator.certificates.x509 import Wanted
from edge_peer.shell.x509 import Certificate, read_certificates

NOW = datetime.now(timezone.utc).replace(microsecond=0)
BROKER = Wanted("broker.kitchen", server=True, addresses=("kitchen", "192.168.1.10", "fe80::1"))
FLEET = [BROKER, Wanted("kitchen"), Wanted("roof"), Wanted("operator")]
NAMES = [it.name for it in FLEET]
STEPS = ("trust", "switch", "forget")


def folder(path: Path, now: datetime = NOW, say: Callable[[str], None] = print, **lifetimes: int) -> Folder:
    return Folder(path, now, Lifetimes(**lifetimes), say)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "pki"
    assert folder(path).make(FLEET) == NAMES
    return path


@pytest.fixture
def pki(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "pki")


def contents(path: Path) -> dict[str, bytes]:
    return {it.name: it.read_bytes() for it in path.iterdir()}


def own(path: Path, name: str) -> Certificate:
    return read_certificates((path / f"{name}.crt").read_bytes())[0]


def context(path: Path, name: str, server: bool, trust: Path | None = None) -> ssl.SSLContext:
    """As strict as Python 3.13 is by default."""
    it = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    it.verify_mode = ssl.CERT_REQUIRED
    it.verify_flags |= ssl.VERIFY_X509_STRICT
    it.load_verify_locations((trust or path) / "ca.crt")
    it.load_cert_chain(path / f"{name}.crt", path / f"{name}.key")
    return it


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, address: str) -> str:
    """Both sides in this process; the client's common name as the broker sees it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=address)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for side in (here, there):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    seen: Any = there.getpeercert()
    return dict(pair for part in seen["subject"] for pair in part)["commonName"]


# ---------------------------------------------------------------------- who trusts whom


@pytest.mark.parametrize("address", BROKER.addresses)
@pytest.mark.parametrize("name", ["kitchen", "roof", "operator"])
def test_each_is_known_to_the_broker_by_its_name_and_the_broker_by_each_address(
    made: Path, name: str, address: str
) -> None:
    assert handshake(context(made, BROKER.name, True), context(made, name, False), address) == name


def test_the_broker_is_not_known_by_another_address(made: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(context(made, BROKER.name, True), context(made, "roof", False), "roof")


def test_a_peers_certificate_makes_no_broker_and_the_brokers_no_peer(made: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        handshake(context(made, "roof", True), context(made, "kitchen", False), "roof")
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        handshake(context(made, BROKER.name, True), context(made, BROKER.name, False), "kitchen")


def test_another_fleets_certificate_is_not_trusted(made: Path, tmp_path: Path) -> None:
    folder(tmp_path / "other").make(FLEET)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context(made, BROKER.name, True), context(tmp_path / "other", "roof", False, made), "kitchen")


def test_a_board_whose_clock_is_years_slow_can_still_connect(made: Path) -> None:
    for name in NAMES:
        assert NOW - own(made, name).not_before >= timedelta(days=3652)
    assert NOW - read_certificates((made / "ca.crt").read_bytes())[0].not_before >= timedelta(days=3652)


# ---------------------------------------------------------------------- what is made when


def test_nothing_is_made_twice(pki: Path) -> None:
    before = contents(pki)
    said: list[str] = []
    assert folder(pki, say=said.append).make(FLEET) == []
    assert contents(pki) == before
    assert said == []


@pytest.mark.parametrize(("days", "renewed"), [(40, False), (41, True), (99, True), (101, True)])
def test_what_expires_within_renew_days_is_made_anew(tmp_path: Path, days: int, renewed: bool) -> None:
    limits = {"days": 100, "renew_days": 60}
    folder(tmp_path, **limits).make([Wanted("roof")])
    authority = (tmp_path / "ca.crt").read_bytes()
    later = NOW + timedelta(days=days)
    assert folder(tmp_path, later, **limits).make([Wanted("roof")]) == (["roof"] if renewed else [])
    assert own(tmp_path, "roof").not_after == (later if renewed else NOW) + timedelta(days=100)
    assert (tmp_path / "ca.crt").read_bytes() == authority


def test_no_certificate_outlives_its_authority_and_that_it_ends_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    folder(tmp_path, authority_days=50, say=said.append).make([Wanted("roof")])
    assert own(tmp_path, "roof").not_after == read_certificates((tmp_path / "ca.crt").read_bytes())[0].not_after
    assert any("ends in 50 days" in it and "--authority trust" in it for it in said)
    # It could not be made to last longer, so it is not made anew each time.
    assert folder(tmp_path).make([Wanted("roof")]) == []
    rows = {row.name: row for row in folder(tmp_path).check([Wanted("roof")])}
    assert (rows["ca"].urgent, rows["roof"].urgent) == (True, False)


def test_another_address_is_a_reason_for_a_new_certificate_of_the_broker_alone(pki: Path) -> None:
    said: list[str] = []
    moved = Wanted(BROKER.name, True, ("kitchen", "192.168.1.99", "fe80::1"))
    assert folder(pki, say=said.append).make([moved, *FLEET[1:]]) == [BROKER.name]
    assert any("names 192.168.1.10, fe80::1, kitchen instead of" in it for it in said)


def exchange(pki: Path) -> None:
    (pki / "roof.key").write_bytes((pki / "kitchen.key").read_bytes())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda pki: (pki / "roof.key").unlink(), "roof: made"),
        (lambda pki: (pki / "roof.crt").unlink(), "roof: made"),
        (lambda pki: (pki / "roof.key").write_bytes(b""), "roof: is damaged"),
        (lambda pki: (pki / "roof.crt").write_bytes(b"-----BEGIN"), "roof: is damaged"),
        (exchange, "roof: is not of its key"),
        (
            lambda pki: [shutil.copy(pki / f"kitchen.{it}", pki / f"roof.{it}") for it in ("crt", "key")],
            "is of CN=kitch",
        ),
        (
            lambda pki: [shutil.copy(pki / f"{BROKER.name}.{it}", pki / f"roof.{it}") for it in ("crt", "key")],
            "is of CN=",
        ),
    ],
)
def test_what_is_damaged_is_made_anew_and_nothing_else(
    pki: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(pki)
    rows = {row.name: row.urgent for row in folder(pki).check(FLEET)}
    assert rows == {name: name == "roof" for name in ["ca", *NAMES]}
    said: list[str] = []
    assert folder(pki, say=said.append).make(FLEET) == ["roof"]
    assert any(reason in it for it in said), said
    assert handshake(context(pki, BROKER.name, True), context(pki, "roof", False), "kitchen") == "roof"


@pytest.mark.parametrize("name", ["ca.key", "ca.crt"])
@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_an_authority_that_the_fleet_trusts_is_never_replaced_in_silence(
    pki: Path, name: str, content: bytes | None
) -> None:
    (pki / name).unlink()
    if content is not None:
        (pki / name).write_bytes(content)
    before = contents(pki)
    with pytest.raises(ResourceError, match=rf"{name}.* put .* back from your backup"):
        folder(pki).make(FLEET)
    assert contents(pki) == before


def test_a_key_of_another_authority_is_noticed(pki: Path, tmp_path: Path) -> None:
    folder(tmp_path / "other").make([])
    shutil.copy(tmp_path / "other/ca.key", pki / "ca.key")
    with pytest.raises(ResourceError, match=r"ca.key fits no certificate in ca.crt"):
        folder(pki).make(FLEET)


def test_rotation_makes_new_keys_that_the_same_authority_has_signed(pki: Path, made: Path) -> None:
    before = contents(pki)
    assert folder(pki).make(FLEET, rotate=True) == NAMES
    after = contents(pki)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"{name}.{ending}" for name in NAMES for ending in ("crt", "key")}
    # Old and new trust each other: hosts get theirs one after another.
    assert handshake(context(pki, BROKER.name, True), context(made, "roof", False), "kitchen") == "roof"
    assert handshake(context(made, BROKER.name, True), context(pki, "roof", False), "kitchen") == "roof"


# ---------------------------------------------------------------------- another authority


def test_at_each_step_to_another_authority_hosts_before_and_after_it_trust_each_other(
    pki: Path, made: Path, tmp_path: Path
) -> None:
    stages = [made]
    for step in STEPS:
        folder(pki).take_over(step, FLEET)
        again = contents(pki)
        if step != "switch":
            folder(pki).take_over(step, FLEET)
            assert contents(pki).keys() == again.keys()
        folder(pki).make(FLEET)
        stages.append(shutil.copytree(pki, tmp_path / step))
        for broker in stages[-2:]:
            for peer in stages[-2:]:
                assert handshake(context(broker, BROKER.name, True), context(peer, "roof", False), "kitchen") == "roof"
    assert (pki / "ca.crt").read_bytes().count(b"BEGIN") == 1
    assert not (pki / "ca.next.key").exists()
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context(pki, BROKER.name, True), context(made, "roof", False, pki), "kitchen")


def test_steps_out_of_order_are_refused_and_change_nothing(pki: Path) -> None:
    for steps, match in (
        (["switch"], "--authority trust first"),
        (["trust", "forget"], "--authority switch first"),
        # The certificates have not been made: `make` has not been called.
        (["switch", "forget"], "kitchen.*signed by the former one; --authority switch again first"),
    ):
        for step in steps[:-1]:
            folder(pki).take_over(step, FLEET)  # type: ignore[arg-type]
        before = contents(pki)
        with pytest.raises(ConfigError, match=match):
            folder(pki).take_over(steps[-1], FLEET)  # type: ignore[arg-type]
        assert contents(pki) == before


def test_no_step_without_an_authority(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no authority"):
        folder(tmp_path).take_over("trust", FLEET)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- files


def in_a_child(action: Callable[[], None], hook: Callable[[str], None]) -> int:
    """Run it in a process of its own, and the hook before everything that it asks of the system; the exit code."""
    child = os.fork()
    if child == 0:
        code = 9
        try:
            os.umask(0)
            sys.addaudithook(lambda event, _: hook(event))
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def everything(path: Path) -> None:
    """All that can be written, and again from wherever it broke off."""
    quiet: Callable[[str], None] = lambda _: None  # noqa: E731
    few = [FLEET[0], FLEET[2]]
    folder(path, say=quiet).make(few)
    if (path / "ca.crt").read_bytes().count(b"BEGIN") == 1:
        folder(path, say=quiet).take_over("trust", few)
    for step in ("switch", "forget"):
        folder(path, say=quiet).take_over(step, few)  # type: ignore[arg-type]
        folder(path, say=quiet).make(few)


def test_nobody_else_can_read_a_key_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "pki"
    looked = tmp_path / "looked"

    def look(event: str) -> None:
        if event in ("os.listdir", "os.scandir") or not path.exists():
            return
        for it in path.iterdir():
            if ".key" in it.name:
                if stat.S_IMODE(it.stat().st_mode) != 0o600:
                    os._exit(7)
                if it.name.endswith(".new") and event == "os.rename":
                    os.close(os.open(looked, os.O_CREAT | os.O_WRONLY))

    assert in_a_child(lambda: everything(path), look) == 0
    assert looked.exists(), "it was looked at before the file had its name"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_run_that_breaks_off_anywhere_is_gone_on_with(tmp_path: Path) -> None:
    broken = 0
    for number in range(100):
        path = tmp_path / str(number)
        left = [number]

        def end(event: str, left: list[int] = left) -> None:
            if event == "os.rename":
                left[0] -= 1
                if left[0] < 0:
                    os._exit(7)

        code = in_a_child(lambda path=path: everything(path), end)  # type: ignore[misc]
        if code == 0:
            break
        assert code == 7
        broken += 1
        everything(path)
        assert not any(row.urgent for row in folder(path).check([FLEET[0], FLEET[2]]))
        assert handshake(context(path, BROKER.name, True), context(path, "roof", False), "kitchen") == "roof"
    assert broken >= 12, "each file is replaced at least once"


def test_rights_that_are_too_wide_are_told_and_narrowed(pki: Path) -> None:
    (pki / "roof.key").chmod(0o644)
    assert {row.name: row.problem for row in folder(pki).check(FLEET)}["roof"] == "others can read its key"
    said: list[str] = []
    assert folder(pki, say=said.append).make(FLEET) == []
    assert stat.S_IMODE((pki / "roof.key").stat().st_mode) == 0o600
    assert any("roof.key: others could read it (mode 644)" in it and "--rotate" in it for it in said)


def test_a_link_in_the_place_of_a_temporary_file_leads_no_key_away(pki: Path, tmp_path: Path) -> None:
    (pki / ".roof.key.new").symlink_to(tmp_path / "elsewhere")
    folder(pki).make(FLEET, rotate=True)
    assert not (tmp_path / "elsewhere").exists()


# ---------------------------------------------------------------------- names


def test_names_of_a_fleet() -> None:
    assert wanted(["kitchen", "roof", "roof"], {"kitchen": ["192.168.1.10"], "hall.example": []}) == [
        Wanted("broker.kitchen", True, ("kitchen", "kitchen.local", "192.168.1.10", "localhost", "127.0.0.1")),
        Wanted("broker.hall.example", True, ("hall.example", "localhost", "127.0.0.1")),
        Wanted("kitchen"),
        Wanted("roof"),
        Wanted("operator"),
    ]


@pytest.mark.parametrize(
    ("peers", "brokers", "match"),
    [
        ([], {}, "no peer and no broker"),
        (["../roof"], {}, r"peer '../roof': use letters"),
        (["Operator"], {}, "has a meaning of its own"),
        (["ca"], {}, "has a meaning of its own"),
        (["ca.next"], {}, "has a meaning of its own"),
        (["broker.roof"], {}, "has a meaning of its own"),
        (["a"], {"b" * 60: []}, "at most 57"),
        (["a"], {"kitchen": ["{{ address }}"]}, "no host name or address"),
        (["a"], {"kitchen": ["küche"]}, "punycode"),
        (["a"], {"kitchen": [""]}, "no host name or address"),
    ],
)
def test_names_that_cannot_be_used_are_told(peers: list[str], brokers: dict[str, list[str]], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        wanted(peers, brokers)


INVENTORY = """
all:
  children:
    broker:
      hosts:
        kitchen:
          broker_tls_names: [broker.example, "fe80::1"]
    peers:
      children:
        pis:
          hosts:
            kitchen: {ansible_host: 192.168.1.10}
            pi[1:2]:
        others:
          hosts:
            roof:
"""


def test_the_inventory_says_who_is_in_the_fleet(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yml"
    path.write_text(INVENTORY)
    names = ("kitchen", "kitchen.local", "192.168.1.10", "broker.example", "fe80::1", "localhost", "127.0.0.1")
    server, *others = read_inventory(path)
    assert server == Wanted("broker.kitchen", True, names)
    assert {it.name for it in others} == {"kitchen", "pi1", "pi2", "roof", "operator"}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "no such file; write one as ansible/inventory.example.yml shows"),
        ("all: [", "inventory.yml"),
        (INVENTORY.replace("[broker.example", "{a: 1}  # ["), "broker_tls_names = {'a': 1}: must be a list of texts"),
        ("all: {hosts: {kitchen: }}", "list hosts in the inventory's groups peers and broker"),
    ],
)
def test_an_inventory_that_cannot_be_used_is_a_clear_error(tmp_path: Path, content: str | None, match: str) -> None:
    path = tmp_path / "inventory.yml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(EdgePeerError, match=match):
        read_inventory(path)


# ---------------------------------------------------------------------- the command


def command(path: Path, *options: str) -> int:
    return main(["--folder", str(path), "kitchen", "roof", "--broker", "kitchen,192.168.1.10", *options])


def test_the_command_makes_checks_and_says_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fleet/pki"
    assert command(path, "--check") == 1
    assert not path.exists(), "a check makes nothing"
    assert "missing" in capsys.readouterr().out
    assert command(path) == 0
    assert "4 made, 0 kept" in capsys.readouterr().out
    before = contents(path)
    assert command(path, "--check") == 0
    assert contents(path) == before
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "certificate", "ca", "broker.kitchen", "kitchen", "roof", "operator"
    ]  # fmt: skip
    assert command(path, "--check", "--renew-days", "820", "--days", "900") == 0
    assert command(path, "--check", "--renew-days", "830", "--days", "900") == 1
    assert "has 824 days left" in capsys.readouterr().out
    for options in (["--rotate"], ["--authority", "trust"], ["--authority", "switch"], ["--authority", "forget"]):
        assert command(path, *options) == 0
    assert command(path, "--authority", "switch") == 2
    said = capsys.readouterr()
    assert "--authority trust first" in said.err
    keys = [it.read_text().splitlines()[1] for it in path.glob("*.key")]
    assert len(keys) == 5
    assert not any(key[:20] in said.out + said.err for key in keys)
    assert "PRIVATE" not in said.out + said.err


def test_options_that_contradict_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, "--days", "30") == 2
    assert "--renew-days 60 is not less than --days 30" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command(tmp_path, "--days", "0")
    assert "must be from 1 to 36500" in capsys.readouterr().err
