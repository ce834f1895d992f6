"""The updates of committed rounds on a controller's disk, so that others can make its models again.

What is kept is what was received, with the offer that was accepted; never in runs with central privacy, where an update
without noise must not outlive its round, and where nobody without the controller's key could make the model again. To
go on from a round, its base is needed: it is made of the rounds before, so it is kept where these are not here, and now
and then, because the oldest rounds go first.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from aggregator_core.layout import Layout
from edge_peer.protocol.commands import Aggregate
from edge_peer.protocol.events import AggregateFailed, AggregateReady
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import ModelRef, UpdateOffer
from edge_peer.shell.changes import Encoded
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.payload import decode_encoded, encode_model, encode_update
from edge_peer.shell.store import write_atomically
from edge_peer.shell.vectors import Vectors

LOG = logging.getLogger(__name__)
#: Below a run's folder: `updates/<round>/<peer>.safetensors`.
UPDATES = "updates"
SUFFIX = ".safetensors"
#: The round's base among its updates: no name of a peer begins so.
BASE = f"_base{SUFFIX}"
#: Rounds from one base that is kept to the next.
BASE_EVERY = 10
#: Rounds that wait for a slow card; then the loop waits, because a record with gaps is of little use.
WAITING_MAX = 4
STOP_S = 30.0
#: Files of one round by name.
Files = dict[str, bytes]


def round_of(folder: Path) -> int | None:
    """Which round a folder of updates is of; None: it is no such folder."""
    name = folder.name
    return int(name) if name.isascii() and name.isdecimal() and len(name) < 16 and str(int(name)) == name else None


class KeptUpdates:
    """Keeps the updates of the rounds that this peer commits; used by the loop's thread.

    Args:
        folder: The `runs` folder.
        layout: Of the model.
        vectors: Where bases and this peer's own update are held.
        bytes_max: Of all that is kept of all runs; the oldest rounds go first.
        led: Settings of the run that this peer leads; None: it leads none.
    """

    def __init__(
        self, folder: Path, layout: Layout, vectors: Vectors, bytes_max: int, led: Callable[[], RunSettings | None]
    ) -> None:
        self._layout = layout
        self._vectors = vectors
        self._disk = _Disk(folder, bytes_max)
        self._led = led
        #: As received, by digest: whoever sends the same values in the same codec sends what decodes to the same.
        self._payloads: dict[str, bytes] = {}
        #: The newest model that was made, and what it was made of.
        self._merged: tuple[str, Aggregate, Files] | None = None
        #: The last round that was kept.
        self._last: tuple[str, int] | None = None

    def receive(self, offer: UpdateOffer, payload: bytes) -> None:
        """Hold the payload of an update whose vector is held."""
        led = self._led()
        if led is not None and led.codec == offer.codec:
            self._payloads.setdefault(offer.digest, payload)

    def forget(self, digests: frozenset[str]) -> None:
        """Forget all payloads but those of these updates."""
        self._payloads = {digest: payload for digest, payload in self._payloads.items() if digest in digests}

    def merge(self, command: Aggregate, event: AggregateReady | AggregateFailed) -> None:
        """Note what a model was made of; nothing is written before it is committed."""
        self._merged = None
        base = self._vectors.model(command.base)
        if isinstance(event, AggregateFailed) or base is None or command.settings.privacy == "central":
            return
        files = {}
        for it in command.updates:
            encoded = self._encoded(it.offer)
            if encoded is None:
                LOG.error("updates of round %d not kept: that of %s is not held as it was sent", command.round, it.peer)
                return
            # With the offer that counts: the same values may have been offered to an earlier controller, too.
            files[f"{it.peer}{SUFFIX}"] = encode_update(it.offer, encoded)
        if command.round > 1 and self._needs_base(command):
            files[BASE] = self._base(command, base)
        self._merged = (event.sha256, command, files)

    def _encoded(self, offer: UpdateOffer) -> Encoded | None:
        payload = self._payloads.get(offer.digest)
        if payload is not None:
            return decode_encoded(payload, offer.codec, self._layout)
        own = self._vectors.own(offer.digest)
        return own.encoded if own is not None else None

    def _needs_base(self, command: Aggregate) -> bool:
        return self._last != (command.run_id, command.round - 1) or (command.round - 1) % BASE_EVERY == 0

    def _base(self, command: Aggregate, base: GlobalModel) -> bytes:
        # Its number and term are not known here, and nobody needs them: the digest says which model it is.
        ref = ModelRef(command.run_id, 1, command.round - 1, command.term, command.base)
        return encode_model(self._layout, ref, base)

    def commit(self, sha256: str) -> None:
        """This model is a round's now: have its updates written."""
        if self._merged is None or self._merged[0] != sha256:
            return
        _, command, files = self._merged
        self._merged = None
        self._last = (command.run_id, command.round)
        self._disk.put(command.run_id, command.round, files)

    def stop(self) -> None:
        """Return when all is on the disk, within a bound."""
        self._disk.stop()


class _Disk:
    """Writes rounds on a thread of its own, each whole or not at all."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._queue: queue.Queue[tuple[str, int, Files] | None] = queue.Queue(WAITING_MAX)
        self._thread: threading.Thread | None = None
        #: Bytes of each folder of a round, the oldest first; None: not looked yet.
        self._sizes: dict[Path, int] | None = None

    def put(self, run_id: str, round_: int, files: Files) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="kept updates", daemon=True)
            self._thread.start()
        self._queue.put((run_id, round_, files))

    def stop(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(STOP_S)

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._write(*item)
            except OSError as error:
                # A full disk costs a record for people, not the run.
                LOG.error("updates of round %d not kept: %s", item[1], error)

    def _write(self, run_id: str, round_: int, files: Files) -> None:
        if self._sizes is None:
            self._sizes = self._found()
        size = sum(len(content) for content in files.values())
        if size > self._bytes_max:
            LOG.error(
                "updates of round %d not kept: %d bytes are more than [peer] keep_updates_bytes_max = %d; raise that",
                round_,
                size,
                self._bytes_max,
            )
            return
        folder = self._folder / run_id / UPDATES / str(round_)
        self._remove(folder)
        while self._sizes and sum(self._sizes.values()) + size > self._bytes_max:
            self._remove(next(iter(self._sizes)))
        new = folder.with_name(f".{round_}.new")
        new.mkdir(parents=True)
        for name, content in files.items():
            write_atomically(new / name, content)
        new.replace(folder)
        descriptor = os.open(folder.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._sizes[folder] = size

    def _remove(self, folder: Path) -> None:
        assert self._sizes is not None
        self._sizes.pop(folder, None)
        if folder.exists():
            # Out of sight at once: whoever collects finds a round whole, or not at all.
            gone = folder.with_name(f".{folder.name}.new")
            shutil.rmtree(gone, ignore_errors=True)
            folder.replace(gone)
        shutil.rmtree(folder.with_name(f".{folder.name}.new"), ignore_errors=True)

    def _found(self) -> dict[Path, int]:
        """What earlier processes have kept, by run and round; what they left half written is removed."""
        found = []
        for folder in self._folder.glob(f"*/{UPDATES}/*/"):
            number = round_of(folder)
            if number is not None:
                found.append((folder.parent.parent.name, number, folder))
            elif folder.name.startswith("."):
                shutil.rmtree(folder, ignore_errors=True)
        return {
            folder: sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
            for _, _, folder in sorted(found)
        }
