"""The live page in a real browser, beside real runs: what it shows, to whom, and whatever is said to it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from axe_playwright_python.sync_playwright import Axe
from paho.mqtt.enums import CallbackAPIVersion
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from edge_peer.operator.certificates.x509 import Wanted
from edge_peer.operator.dashboard.__main__ import main as dashboard
from edge_peer.operator.dashboard.site import VIEWER
from edge_peer.operator.local.broker import DASHBOARD, HOST, LocalBroker, free_port, require_mosquitto
from edge_peer.operator.runs.results import Results, read_results
from edge_peer.protocol.messages import TRAINING, Presence, Round, Vote, encode
from edge_peer.protocol.onlookers import History
from edge_peer.protocol.onlookers import encode as for_onlookers
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import ModelRef
from tests.live.browser import OPTIONS, require_chromium
from tests.live.harness import FEDERATION, Live
from tests.live.reader import Reader
from tests.live.test_tls import TlsBroker, authority, tls

pytestmark = pytest.mark.live
Make = Callable[..., Live]
Open = Callable[..., Page]
#: Where the pictures of docs/dashboard.md are written, if somebody wants new ones.
IMAGES = os.environ.get("DASHBOARD_IMAGES")
SIZES = {"phone": (390, 844), "laptop": (1280, 800), "large": (1920, 1080)}
#: Where axe looks: each of its looks takes as long as a run.
AXE = {("phone", "light"), ("laptop", "dark")}
SMALL = {"run": {"rounds_max": 6}}
WAIT_MS = 30_000.0
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        it = playwright.chromium.launch(executable_path=require_chromium(print), args=OPTIONS)
        yield it
        it.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    it = LocalBroker(tmp_path, require_mosquitto(print), dashboard=FEDERATION)
    it.start()
    yield it
    it.stop()


@pytest.fixture
def visit(browser: Browser, broker: LocalBroker) -> Iterator[Open]:
    """Opens the page as somebody else each time; whatever a browser complains of fails the test."""
    complaints: list[str] = []

    def make(forgiving: str = "nothing", **options: Any) -> Page:
        def complain(text: str) -> None:
            if forgiving not in text:
                complaints.append(text)

        width, height = SIZES["laptop"]
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.on("console", lambda it: complain(f"{it.type}: {it.text}"))
        page.on("pageerror", lambda it: complain(f"error: {it}"))
        page.on("dialog", lambda it: complain(f"dialog: {it.message}"))
        page.goto(f"http://{HOST}:{broker.page_port}/")
        expect(page.locator("#link")).to_have_text("● live", timeout=WAIT_MS)
        return page

    yield make
    for context in browser.contexts:
        context.close()
    assert complaints == []


def row(page: Page, peer: str) -> Any:
    return page.locator("#boards tbody tr").filter(has=page.get_by_text(peer, exact=True))


def numbers(page: Page) -> dict[int, list[str]]:
    """The page's table of rounds."""
    page.evaluate("document.querySelector('#numbers').open = true")
    lines: list[list[str]] = page.locator("#rounds tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return {int(line[0]): line[1:] for line in lines}


def finished(page: Page, live: Live, run_id: str) -> Results:
    """The results on the disk, once the page has heard of the end and of every row."""
    live.stop()
    folder = live.run_folder(live.peers[0], run_id)
    for peer in live.peers[1:]:
        (folder / f"{peer}.csv").write_bytes((live.run_folder(peer, run_id) / f"{peer}.csv").read_bytes())
    return read_results(folder)


def bytes_of(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit]


def same_as_csvs(page: Page, results: Results) -> None:
    shown = numbers(page)
    accuracy = results.accuracy()
    assert sorted(shown) == sorted(accuracy)
    for number, (mean, mean_int8, loss, boards, sent, received, _) in shown.items():
        rows = [it for rows in results.peers.values() for it in rows if it.round == number]
        weights = sum(it.test_examples for it in rows)
        assert float(mean) == pytest.approx(accuracy[number], abs=6e-5)
        assert float(loss) == pytest.approx(sum(it.global_loss * it.test_examples for it in rows) / weights, abs=6e-5)
        told = [it for it in rows if it.int8_accuracy is not None]
        weights = sum(it.test_examples for it in told)
        int8 = sum((it.int8_accuracy or 0) * it.test_examples for it in told) / weights if told else None
        assert mean_int8 == "–" if int8 is None else float(mean_int8) == pytest.approx(int8, abs=6e-5)
        assert int(boards) == len(rows) == len(results.peers)
        assert bytes_of(sent) == pytest.approx(sum(it.bytes_sent for it in rows), rel=0.006)
        assert bytes_of(received) == pytest.approx(sum(it.bytes_received for it in rows), rel=0.006)


def test_the_page_shows_what_the_csvs_say_after_a_reload_and_when_it_is_opened_late(
    live: Make, small: Path, visit: Open
) -> None:
    it = live(small, 4, SMALL)
    it.configure()
    page = visit()
    expect(page.locator("#boards-summary")).to_have_text("No board has been heard of yet.")
    it.start()
    it.wait_round(3)
    page.reload()
    document = it.wait_finished()
    assert document.run_id is not None
    expect(page.locator("#run-id")).to_have_text(document.run_id)
    expect(page.locator("#run-state")).to_contain_text("finished: reached 6 rounds")
    expect(page.locator("#run-accuracy")).to_have_text(f"{document.accuracy:.4f}")
    expect(page.locator("#boards-summary")).to_have_text("All 4 boards are there.")
    expect(page.locator("#log")).to_contain_text(f"run {document.run_id} is finished after round 6")
    for peer in it.peers:
        expect(row(page, peer)).to_contain_text("(round 6)")
    late = visit()
    for opened in (page, late):
        # The last thing that every board says of a run is its history.
        opened.evaluate("document.querySelector('#numbers').open = true")
        expect(opened.locator("#rounds tbody tr")).to_have_count(7)
        expect(opened.locator("#rounds tbody tr").first.locator("td").nth(4)).not_to_have_text("–")
        opened.wait_for_function(
            "() => [...document.querySelectorAll('#rounds tbody tr')].every(row => row.cells[4].textContent === '4')"
        )
    results = finished(page, it, document.run_id)
    expect(page.locator("#boards-summary")).to_contain_text("4 of 4 boards missing")
    for opened in (page, late):
        same_as_csvs(opened, results)


def test_a_killed_board_is_missing_and_said_to_be_gone(live: Make, small: Path, visit: Open) -> None:
    it = live(small, 4, {"run": {"rounds_max": 100_000}})
    it.configure()
    it.start()
    it.wait_round(2)
    page = visit(reduced_motion="reduce")
    expect(page.locator("#boards-summary")).to_have_text("All 4 boards are there.")
    controller = it.federation.controller
    assert controller is not None
    expect(row(page, controller)).to_have_class("controller")
    it.fleet.kill(controller)
    expect(page.locator("#boards-summary")).to_have_text(f"1 of 4 boards missing: {controller}")
    gone = row(page, controller)
    expect(gone).to_have_class("missing")
    expect(gone).to_contain_text(re.compile(r"gone \d\d:\d\d:\d\d"))
    assert page.locator("#boards tbody tr").first.inner_text().startswith(controller), "who is missing stands first"
    expect(page.locator("#voice")).to_contain_text(f"{controller} is gone")
    expect(page.locator("#log")).to_contain_text(re.compile(r"peer\d is elected controller of term [2-9]"))
    expect(page.locator("#election-title")).to_contain_text("was won by")
    it.start(controller)
    expect(page.locator("#boards-summary")).to_have_text("All 4 boards are there.")
    expect(page.locator("#log")).to_contain_text(f"{controller} is back")


def test_a_broker_that_is_gone_is_said_to_be(live: Make, small: Path, visit: Open, broker: LocalBroker) -> None:
    it = live(small, 2, {"run": {"rounds_max": 100_000}})
    it.configure()
    it.start()
    it.wait_round(2)
    # Of connections that are refused a browser itself complains.
    page = visit(forgiving="WebSocket")
    expect(page.locator("#boards tbody tr")).to_have_count(2)
    broker.kill()
    expect(page.locator("#link")).to_contain_text("no connection to the broker since")
    broker.start()
    expect(page.locator("#link")).to_have_text("● live")
    expect(page.locator("#log")).to_contain_text("connected to the broker again")


class Speaker:
    """Whoever may publish, over the other listener: topics and payloads as they are given."""

    def __init__(self, port: int, federation: str = FEDERATION) -> None:
        self._federation = federation
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.connect(HOST, port)
        self._client.loop_start()

    def say(self, peer: str, kind: str, payload: bytes) -> None:
        message = self._client.publish(f"fl/v1/{self._federation}/{peer}/{kind}", payload, qos=1, retain=True)
        message.wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def test_whatever_is_said_is_shown_as_text_or_dropped(visit: Open, broker: LocalBroker) -> None:
    speaker = Speaker(broker.port)
    page = visit()
    try:
        for name in ("<img src=x onerror=alert(1)>", "__proto__", "-a", "a b", "\u202ename", "n" * 65):
            speaker.say(name, "presence", encode(Presence(session="s", online=True)))
        for payload in (
            b"",
            b"[]",
            b"null",
            b"\xff",
            b"{" * 100_000,
            b'{"session": 1}',
            b'{"__proto__": {"online": true}}',
        ):
            speaker.say("rubbish", "presence", payload)
            speaker.say("rubbish", "round", payload)
            speaker.say("rubbish", "history", payload)
        for name in ("constructor", "toString", "hasOwnProperty"):
            speaker.say(name, "presence", encode(Presence(session="s", online=True, note=HOSTILE)))
        rows = page.locator("#boards tbody tr")
        expect(rows).to_have_count(3)
        for name in ("constructor", "toString", "hasOwnProperty"):
            expect(row(page, name)).to_contain_text(HOSTILE)
        expect(page.locator("#log")).to_contain_text("a message is not shown")
        assert page.locator("main img, main script").count() == 0
        assert page.evaluate("({}).online") is None
    finally:
        speaker.close()


def test_the_pages_credentials_read_small_documents_and_write_nothing(broker: LocalBroker, tmp_path: Path) -> None:
    password = (tmp_path / DASHBOARD / "password").read_text()
    for name, given in ((None, None), (VIEWER, "wrong"), ("peer1", password)):
        stranger = Reader(broker.page_port, name, given)
        stranger.until(lambda it=stranger: it.accepted is not None)
        assert not stranger.accepted
    speaker = Speaker(broker.port)
    for kind in ("presence", "model", "update", "delta", "stop", "history"):
        speaker.say("peer1", kind, b"{}")
    speaker.close()
    Speaker(broker.port, "another").say("peer1", "presence", b"{}")
    viewer = Reader(broker.page_port, VIEWER, password)
    viewer.until(lambda: viewer.accepted is True)
    for topic in (f"fl/v1/{FEDERATION}/peer1/presence", f"fl/v1/{FEDERATION}/viewer/presence", "else", "$SYS/x"):
        viewer.publish(topic)
    viewer.until(lambda: len(viewer.refused) == 4)
    assert set(viewer.refused) == {135}, "not authorized"
    viewer.read()
    viewer.until(lambda: viewer.subscribed and len(viewer.topics) >= 4)
    assert {it.rsplit("/", 1)[1] for it in viewer.topics} == {"presence", "history"}
    assert {it.split("/")[2] for it in viewer.topics} == {FEDERATION}


def test_nobody_else_is_served(broker: LocalBroker) -> None:
    """Neither on another address, nor a file beside the page."""
    import socket
    from urllib.error import HTTPError
    from urllib.request import urlopen

    assert "mqtt" in urlopen(f"http://{HOST}:{broker.page_port}/").read().decode()
    for path in ("password", "../password", "%2e%2e/password", "../../mosquitto.conf"):
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://{HOST}:{broker.page_port}/{path}")
    addresses = {it[4][0] for it in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {HOST}
    for address in addresses:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, broker.page_port), timeout=5)


@pytest.fixture
def fleets_broker(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    """As the role deploys it: certificates for peers, and the page on the loopback."""
    pki = tmp_path_factory.mktemp("tls") / "pki"
    authority(pki).make([Wanted("broker.here", server=True, addresses=(HOST,)), *map(Wanted, ("peer1", "peer2"))])
    it = TlsBroker(tmp_path, pki, broker_dashboard_port=free_port())
    it.deploy()
    assert dashboard([str(it.tls / "dashboard")]) == 0
    it.start()
    yield it
    it.stop()


def test_a_fleets_page_reads_what_comes_over_tls_and_writes_nothing(
    small: Path, fleets_broker: TlsBroker, browser: Browser, tmp_path: Path
) -> None:
    broker, port = fleets_broker, fleets_broker.settings["broker_dashboard_port"]
    it = Live(tmp_path, broker, small, ["peer1", "peer2"], {"run": {"rounds_max": 100_000}})
    it.configure(**{peer: tls(broker.certificates, peer) for peer in it.peers})
    password = (broker.tls / "dashboard/password").read_text()
    try:
        it.start()
        page = browser.new_context().new_page()
        page.goto(f"http://{HOST}:{port}/")
        expect(page.locator("#run-federation")).to_have_text(FEDERATION)
        expect(page.locator("#run-accuracy")).to_have_text(re.compile(r"0\.\d{4}"))
        expect(page.locator("#boards tbody tr")).to_have_count(2)
        # Certificates and access lists are read again: nobody may do more afterwards, or less.
        for _ in range(2):
            viewer = Reader(port, VIEWER, password)
            viewer.until(lambda it=viewer: it.accepted is True)
            for topic in (f"fl/v1/{FEDERATION}/peer1/presence", f"fl/v1/{FEDERATION}/{VIEWER}/stop"):
                viewer.publish(topic)
            viewer.until(lambda it=viewer: it.refused == [135, 135])
            viewer.read()
            viewer.until(lambda it=viewer: len({topic.rsplit("/", 1)[1] for topic in it.topics}) == 5)
            assert not {topic for topic in viewer.topics if topic.endswith(("/model", "/update"))}
            broker.reload()
        stranger = Reader(port, None, None)
        stranger.until(lambda: stranger.accepted is not None)
        assert not stranger.accepted
        number = int(page.locator("#run-round").inner_text().split()[0])
        page.wait_for_function(f"() => parseInt(document.querySelector('#run-round').textContent) > {number}")
        page.context.close()
    finally:
        it.stop()


def picture(page: Page, name: str) -> None:
    """For docs/dashboard.md, in few colours."""
    if IMAGES:
        made = page.screenshot(full_page=True)
        Image.open(BytesIO(made)).quantize(256).save(Path(IMAGES) / f"dashboard-{name}.png", optimize=True)


def settle(page: Page) -> None:
    """Until the curves have the width of the window."""
    page.wait_for_function(
        """() => [...document.querySelectorAll(".plot")].every(it => it.clientWidth === 0
            || Math.abs(it.querySelector(".uplot").clientWidth - it.clientWidth) < 2)"""
    )


def documents_of(count: int) -> list[tuple[str, str, bytes]]:
    """What that many boards say in the fourth round of a run, when three have been accepted and two are gone."""
    peers = [f"board{number:02}" for number in range(1, count + 1)]
    digest, run = "ab" * 32, "20260101-000000-abcdef"
    said: list[tuple[str, str, bytes]] = []
    for number, peer in enumerate(peers):
        health = {"temperature_c": 40.0 + number / 3, "load_1m": 1.5, "memory_free_bytes": 2e8, "disk_free_bytes": 9e9}
        online = number not in (4, 40)
        said.append((peer, "presence", encode(Presence("s", online, True, True, 1.0, examples=100, health=health))))
        curve = tuple(0.2 + 0.15 * round_ + 0.1 * ((number * 37) % 64) / 64 for round_ in range(4))
        losses = tuple(2.3 - it for it in curve)
        ones = (1.0, 1.0, 1.0, 1.0)
        history = History("s", run, 100, (0, 1, 2, 3), curve, losses, curve, ones, ones, (3e4,) * 4, (9e4,) * 4)
        said.append((peer, "history", for_onlookers(history)))
        if online:
            said.append((peer, "vote", encode(Vote("s", 3, peers[0] if number % 7 else peers[1]))))
    base = ModelRef(run, 1, 3, 3, digest)
    round_ = Round("s", 3, 1, TRAINING, "image_cnn", digest, RunSettings(), run, 1, 4, base, 1, tuple(peers), 60.0)
    round_ = replace(round_, accepted=dict.fromkeys(peers[1:4], digest), missing=dict.fromkeys([peers[4]], "offline"))
    round_ = replace(round_, refused={peers[5]: "L2 norm 9 is above the bound 1"}, accuracy=0.75, accuracy_round=3)
    return [*said, (peers[0], "round", encode(round_))]


@pytest.mark.parametrize("count", [2, 64])
def test_two_boards_and_sixty_four_fit(visit: Open, broker: LocalBroker, count: int) -> None:
    speaker = Speaker(broker.port)
    for document in documents_of(max(count, 6)):
        if count > 2 or document[0] in ("board01", "board02"):
            speaker.say(*document)
    speaker.close()
    page = visit(reduced_motion="reduce")
    expect(page.locator("#boards tbody tr")).to_have_count(count)
    expect(page.locator("#run-round")).to_have_text("4 of 10")
    expect(page.locator("#boards-summary")).to_contain_text("2 of 64" if count > 2 else "All 2")
    expect(page.locator("#chart-accuracy .legend")).to_contain_text("shaded" if count > 2 else "each board")
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{size}: wider than the screen"
        if count > 2 and size == "laptop":
            picture(page, f"{size}-{count}")


@pytest.mark.again
def test_everybody_can_use_it_at_every_size(live: Make, small: Path, visit: Open) -> None:
    it = live(small, 6, {"run": {"rounds_max": 9, "updates_min": 2}})
    it.configure()
    page = visit(reduced_motion="reduce")
    it.start()
    it.wait_round(5)
    it.fleet.kill("peer6" if it.federation.controller != "peer6" else "peer5")
    it.wait_finished()
    expect(page.locator("#run-state")).to_contain_text("finished")
    expect(page.locator("#boards-summary")).to_contain_text("1 of 6 boards missing")
    expect(page.locator("#chart-bytes")).not_to_have_class("empty")
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            settle(page)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{size}: wider than the screen"
            if (size, scheme) in AXE:
                found = Axe().run(page).response["violations"]
                assert [(its["id"], its["nodes"][0]["html"]) for its in found] == []
            picture(page, f"{size}-{scheme}")
