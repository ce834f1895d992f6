"""CSV and round log as a crash, or an earlier release, may have left them: `csv\\n` or `log\\n`, and the file.

Whatever stands in them, what is written next is whole and can be read again.
"""

from __future__ import annotations

import csv
import json
import random
import shutil

from edge_peer.protocol.commands import WriteRow
from edge_peer.protocol.messages import Report
from edge_peer.shell.health import Health
from edge_peer.shell.history import COLUMNS, History
from tests.fuzz.mutators import Bytes, line_and
from tests.fuzz.scratch import scratch
from tests.fuzz.target import Target

FOLDER = scratch()
RUN, PEER = "run-1", "roof"
#: Later than any that a file can have.
ROUND = 10**15


def run(data: bytes) -> str:
    line, _, content = data.partition(b"\n")
    if line not in (b"csv", b"log"):
        return "no file"
    folder = FOLDER / RUN
    folder.mkdir()
    try:
        return _csv(content) if line == b"csv" else _log(content)
    finally:
        shutil.rmtree(folder)


def _csv(content: bytes) -> str:
    path = FOLDER / RUN / f"{PEER}.csv"
    path.write_bytes(content)
    row = WriteRow(
        run_id=RUN,
        term=1,
        round=ROUND,
        role="trainer",
        controller="attic",
        report=Report(0.5, 1.0, 10),
        evaluation_s=1.0,
        examples=10,
        train_loss=0.5,
        training_s=None,
        local=None,
    )
    history = History(FOLDER, PEER)
    for _ in range(2):
        # The second time it is there already.
        history.write_row(row, 1, 2, 3, Health())
    written = path.read_bytes()
    assert written.endswith(b"\n")
    last = written.decode("utf-8", "replace").splitlines()[-1]
    (fields,) = csv.reader([last])
    assert dict(zip(COLUMNS, fields, strict=True))["round"] == str(ROUND)
    header = ",".join(COLUMNS).encode() + b"\n"
    assert written.startswith(header)
    kept = written[: -len(last.encode()) - 1]
    if content.startswith(header):
        assert content.startswith(kept), "rows were changed"
        return "csv went on"
    assert kept == header
    return "csv begun anew"


def _log(content: bytes) -> str:
    path = FOLDER / RUN / "rounds.jsonl"
    path.write_bytes(content)
    history = History(FOLDER, PEER)
    for round_ in (1, 2):
        history.log_round(RUN, "committed", {"round": round_})
    written = path.read_bytes()
    *kept, first, second = written[:-1].split(b"\n")
    assert written.endswith(b"\n")
    assert [json.loads(line)["round"] for line in (first, second)] == [1, 2]
    assert content.startswith(b"".join(line + b"\n" for line in kept))
    return "log"


def _inner(_line: bytes, rest: bytes, size: int, rng: random.Random, mutate: Bytes) -> bytes:
    """Mostly a line that is changed, cut off or doubled."""
    lines = rest.split(b"\n")
    index = rng.randrange(len(lines))
    choice = rng.randrange(4)
    if choice == 0:
        return mutate(rest, size)
    if choice == 1:
        lines.insert(index, lines[index])
    elif choice == 2:
        lines[index] = lines[index][: rng.randrange(len(lines[index]) + 1)]
        del lines[index + 1 :]
    else:
        lines[index] = mutate(lines[index], len(lines[index]) + 16)
    return b"\n".join(lines)[:size]


TARGET = Target(
    run,
    frozenset({"csv went on", "csv begun anew", "log"}),
    ("edge_peer.shell.history",),
    length_max=6144,
    mutate=line_and(_inner),
    words=(b"csv\n", b"log\n", ",".join(COLUMNS).encode() + b"\n"),
)
