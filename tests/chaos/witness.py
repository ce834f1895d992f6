"""Writes down what the broker sends on: `python -m tests.chaos.witness PORT FEDERATION FILE`.

A process of its own that shares no code with the product, so that what a peer says is known from another side, too.
One JSON object a line: when it came, of whom, which kind, whether the broker had kept it, and the document; of a file
with tensors only the document in its metadata.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

HOST = "127.0.0.1"
KINDS = ("presence", "vote", "round", "update")
RETRY_S = 0.05
TURN_S = 0.5


def document(kind: str, payload: bytes) -> dict[str, Any] | None:
    """What a message says; None: it clears what was kept."""
    if not payload:
        return None
    if kind == "update":
        length = int.from_bytes(payload[:8], "little")
        payload = json.loads(payload[8 : 8 + length])["__metadata__"]["edge_peer"]
    said: dict[str, Any] = json.loads(payload)
    return said


def watch(port: int, federation: str, path: Path) -> None:
    """For ever, through all deaths of the broker."""
    with path.open("a", encoding="utf-8") as file:

        def on_connect(client: paho.Client, *_: Any) -> None:
            client.subscribe([(f"fl/v1/{federation}/+/{kind}", 1) for kind in KINDS])

        def on_message(_client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
            *_, peer, kind = message.topic.split("/")
            line = {
                "at_s": time.time(),
                "peer": peer,
                "kind": kind,
                "kept": message.retain,
                "document": document(kind, message.payload),
            }
            file.write(json.dumps(line) + "\n")
            file.flush()

        while True:
            client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, reconnect_on_failure=False)
            client.on_connect, client.on_message = on_connect, on_message
            try:
                client.connect(HOST, port, keepalive=10)
                while client.loop(TURN_S) == paho.MQTT_ERR_SUCCESS:
                    pass
            except OSError:
                pass
            time.sleep(RETRY_S)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
