"""Mosquitto's limits, as the demo's broker and a fleet's are configured: whoever reads nothing costs bounded memory."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import paho.mqtt.client as paho
import pytest
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from edge_peer.operator.local import processes
from edge_peer.operator.local.broker import HOST, LocalBroker, free_port, require_mosquitto

pytestmark = pytest.mark.live
ROOT = Path(__file__).resolve().parents[2]
#: Small, so that little has to be sent.
PACKET_BYTES = 200_000
MESSAGES = 300
#: One packet in flight and four that wait, in two copies, as Mosquitto has one of its own in each packet; and what the
#: program itself takes.
GROWTH_MAX = 2 * 5 * PACKET_BYTES + 4_000_000


def rss_peak(pid: int) -> int:
    """Largest resident memory of a process so far, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no VmHWM")


@contextmanager
def demo(folder: Path) -> Iterator[tuple[int, int]]:
    """(port, process id) of the demo's broker."""
    broker = LocalBroker(folder, require_mosquitto(print), PACKET_BYTES)
    broker.start()
    try:
        yield broker.port, broker.pid
    finally:
        broker.stop()


@contextmanager
def fleet(folder: Path) -> Iterator[tuple[int, int]]:
    """The same of one with the limits of a fleet's broker, in the proportion of their defaults."""
    role = ROOT / "ansible/roles/broker"
    defaults: dict[str, Any] = yaml.safe_load((role / "defaults/main.yml").read_text())
    share = PACKET_BYTES / defaults["broker_packet_bytes_max"]
    scaled = {name: int(it * share) if "bytes_max" in name else it for name, it in defaults.items()}
    text = jinja2.Template((role / "templates/mosquitto.conf.j2").read_text()).render(**scaled)
    limits = [line for line in text.splitlines() if line.startswith(("max_", "upgrade_", "set_tcp"))]
    assert len(limits) >= 8
    port = free_port()
    configuration = folder / "mosquitto.conf"
    own = [f"listener {port} {HOST}", "allow_anonymous true", "user root"]
    configuration.write_text("\n".join([*own, *limits]) + "\n")
    process = processes.start([require_mosquitto(print), "-c", str(configuration)], folder / "mosquitto.log")
    try:
        end_s = time.monotonic() + 30
        while not _listens(port):
            assert process.poll() is None, (folder / "mosquitto.log").read_text()
            assert time.monotonic() < end_s, "it does not listen"
        yield port, process.pid
    finally:
        processes.stop([process])


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def client(name: str, port: int) -> paho.Client:
    it = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
    it.connect(HOST, port, 600)
    return it


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("broker", [demo, fleet])
def test_a_client_that_reads_nothing_costs_the_broker_bounded_memory(tmp_path: Path, broker: Any, qos: int) -> None:
    with broker(tmp_path) as (port, pid):
        subscribed: list[int] = []
        stuck = client("stuck", port)
        stuck.on_subscribe = lambda *_: subscribed.append(1)
        stuck.subscribe("flood", qos=1)
        while not subscribed:
            stuck.loop(1)
        # From here on it reads nothing.
        before = rss_peak(pid)
        mallory = client("mallory", port)
        mallory.loop_start()
        sent = [mallory.publish("flood", bytes(PACKET_BYTES - 100), qos) for _ in range(MESSAGES)]
        # Everything before it has been dealt with when the broker has acknowledged the last one.
        sent.append(mallory.publish("last", b"", 1))
        for it in sent:
            it.wait_for_publish(60)
        assert sent[-1].is_published()
        growth = rss_peak(pid) - before
        mallory.loop_stop()
    assert growth < GROWTH_MAX < MESSAGES * PACKET_BYTES / 4, f"{growth} bytes"


def test_a_message_that_is_too_long_costs_its_sender_the_connection(tmp_path: Path) -> None:
    with demo(tmp_path) as (port, _):
        gone: list[Any] = []
        mallory = client("mallory", port)
        mallory.on_disconnect = lambda _client, _data, _flags, reason, _properties: gone.append(reason)
        # paho itself keeps to what the broker has told it: it must not know.
        mallory.publish("flood", bytes(2 * PACKET_BYTES), 1)
        while not gone:
            mallory.loop(1)
        assert "too large" in str(gone[0]).lower()
