"""Chaos on real processes: `make chaos MINUTES=2 SEED=1 PEERS=4`, or `python -m tests.chaos --help`.

First a run in which nothing happens; then runs in which, by the seed, peers and broker are killed, stopped, cut off,
slowed down and starved. Afterwards the records are checked for every invariant of docs/protocol.md, and each run's
final accuracy is compared with the undisturbed one's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from itertools import islice, pairwise
from pathlib import Path

from data_shards.build import build
from data_shards.datasets import load_dataset
from data_shards.errors import DataError
from edge_peer.errors import EdgePeerError
from edge_peer.operator.demo import run_settings
from edge_peer.operator.local.broker import require_mosquitto
from edge_peer.operator.local.peers import Tables
from edge_peer.trainers.artifacts import load_artifacts
from tests.chaos import document, schedule
from tests.chaos.checker import CHECKS, TIMED, accuracies, accuracy_findings, findings
from tests.chaos.machine import isolate
from tests.chaos.memory import Memory
from tests.chaos.network import Network
from tests.chaos.outcome import show, table, write
from tests.chaos.play import playing
from tests.chaos.records import Records, read
from tests.chaos.replay import replay
from tests.chaos.schedule import draw
from tests.live.harness import ARTIFACTS

ROOT = Path(__file__).resolve().parents[2]
DATA_EXAMPLES = 60_000


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    it = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    it.add_argument("--minutes", type=float, default=2.0, help="how long faults come (default: %(default)g)")
    it.add_argument("--steps", type=int, help="so many times faults, instead of by the clock")
    it.add_argument("--seed", type=int, default=1, help="of data, training and schedule (default: %(default)s)")
    it.add_argument("--peers", type=int, default=4, help="how many, at least 3 (default: %(default)s)")
    it.add_argument("--rounds", type=int, default=15, help="of each run (default: %(default)s)")
    it.add_argument("--examples", type=int, default=3000, help="for training, a peer (default: %(default)s)")
    it.add_argument(
        "--epochs", type=int, default=6, help="a round: faults are to hit its middle (default: %(default)s)"
    )
    it.add_argument(
        "--run",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="further keys of [run]: codec=topk-0.1 error_feedback=true downlink=int8",
    )
    it.add_argument(
        "--busy",
        action="store_true",
        help="this machine has other things to do, which can silence a peer for a whole lease: judge no times by it",
    )
    it.add_argument("--points", type=float, default=1.0, help="of accuracy that faults may cost (default: %(default)g)")
    it.add_argument("--faults", default="", help=f"only these, with commas between: {', '.join(schedule.KINDS)}")
    it.add_argument(
        "--out", type=Path, default=ROOT / "bench/results/chaos.json", help="results (default: %(default)s)"
    )
    it.add_argument("--folder", type=Path, default=ROOT / "build/chaos", help="for what is left of a failing one")
    it.add_argument("--keep", action="store_true", help="keep what is left of one that does not fail, too")
    it.add_argument("--check", type=Path, metavar="FOLDER", help="only check what a failing one has left")
    it.add_argument(
        "--document", action="store_true", help="only write the table of docs/guarantees.md, of what --out names"
    )
    return it


def chosen(options: argparse.Namespace) -> list[str]:
    """The kinds of faults that are asked for; raises SystemExit."""
    kinds = [it.strip() for it in options.faults.split(",")] if options.faults else list(schedule.KINDS)
    unknown = set(kinds) - set(schedule.KINDS)
    if unknown or options.peers < 3:
        wrong = f"--faults: no such fault: {', '.join(sorted(unknown))}" if unknown else "--peers: at least 3"
        parser().error(wrong)
    return kinds


def left_out(network: Network | None, why: str) -> dict[str, str]:
    """Kinds that this machine does not allow, and why."""
    cables = (schedule.CUT_TRAINER, schedule.CUT_CONTROLLER, schedule.CUT_ALL, schedule.LATENCY, schedule.LOSS)
    if network is None:
        return dict.fromkeys((*cables, schedule.FULL_DISK), why)
    out = {}
    if not network.slows:
        out[schedule.LATENCY] = "tc has neither netem nor tbf"
    if not network.loses:
        out[schedule.LOSS] = "nft cannot drop packets of a device"
    return out


class Chaos:
    """One whole experiment.

    Args:
        options: See `parser`.
        say: Gets a line for each thing that happens.
    """

    def __init__(self, options: argparse.Namespace, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._peers = [f"peer{number}" for number in range(1, options.peers + 1)]
        stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        self.folder: Path = options.folder / f"{stamp}-seed{options.seed}"
        #: How faults are made where there is more than one way.
        self._means: dict[str, str] = {}

    def run(self) -> int:
        """Play, check, report; returns how many findings there are."""
        options = self._options
        kinds = chosen(options)
        self.folder.mkdir(parents=True)
        program = require_mosquitto(self._say)
        shards = self.folder / "shards"
        dataset = load_dataset("fashion-mnist", say=self._say)
        examples = min(options.examples, DATA_EXAMPLES // options.peers)
        build(dataset, self._peers, "iid", options.seed, shards, examples)
        # From here on nothing reaches the network outside.
        why = isolate()
        network = None if why else Network(self._peers, self.folder)
        memory = Memory(self._peers)
        out = {kind: because for kind, because in left_out(network, why).items() if kind in kinds}
        self._tell_limits(network, memory, out)
        try:
            kinds = [kind for kind in kinds if kind not in out]
            calm, rough = self._play(program, shards, kinds, network, memory)
        finally:
            if network is not None:
                network.stop()
            memory.stop()
        return self._judge(calm, rough, out)

    def _tell_limits(self, network: Network | None, memory: Memory, out: dict[str, str]) -> None:
        for kind, because in out.items():
            self._say(f"left out: {kind}: {because}")
        if network is not None and network.slows:
            self._means[schedule.LATENCY] = network.how_slow
        self._means[schedule.MEMORY_LIMIT] = memory.how
        for kind, how in self._means.items():
            self._say(f"{kind}: {how}")

    def _play(
        self, program: str, shards: Path, kinds: list[str], network: Network | None, memory: Memory
    ) -> tuple[Records, Records]:
        options = self._options
        run: Tables = {
            "run": {
                "rounds_max": options.rounds,
                "epochs": options.epochs,
                "learning_rate": 0.05,
                "seed": options.seed,
                "round_deadline_s": 20.0,
                **run_settings(options.run),
            }
        }
        calm, rough = self.folder / "undisturbed", self.folder / "disturbed"
        with playing(calm, program, shards, self._peers, run, network, memory, network is not None, self._say) as play:
            play.undisturbed()
        undisturbed = read(calm)
        if undisturbed.played.ends:
            commits = [it["at_s"] for it in undisturbed.lines if it["event"] == "committed"]
            round_s = sum(b - a for a, b in pairwise(commits)) / max(1, len(commits) - 1)
            self._say(f"undisturbed: {round_s:.2f} s a round")
            steps = islice(draw(options.seed, kinds), options.steps)
            end_s = time.monotonic() + 60 * options.minutes if options.steps is None else float("inf")
            disk = network is not None
            with playing(rough, program, shards, self._peers, run, network, memory, disk, self._say) as play:
                play.disturbed(steps, round_s, end_s)
        return undisturbed, read(rough) if rough.exists() else undisturbed

    def _judge(self, calm: Records, rough: Records, out: dict[str, str]) -> int:
        options = self._options
        checks = [check for check in CHECKS if not (options.busy and check in TIMED)]
        found = findings(calm, checks) if calm is not rough else []
        found += findings(rough, checks)
        rows = table(rough)
        ends = rough.played.ends
        replayed = replay(self.folder / "disturbed", rough, load_artifacts(ARTIFACTS))
        found += replayed.findings
        bound = f"{options.minutes:g} minutes" if options.steps is None else f"{options.steps} times"
        title = f"Faults on {options.peers} peers and their broker, {bound}, seed {options.seed}"
        show(title, rows)
        if calm.played.ends:
            undisturbed = calm.played.ends[0]
            found += accuracy_findings(ends, undisturbed, options.points)
            for end in ends:
                own, other = accuracies(end, undisturbed)
                print(f"run {end.run_id}: accuracy {own:.4f}, undisturbed {other:.4f}")
            print(f"{replayed.recomputed} of {replayed.rounds} rounds' models made again of their updates")
            more = {
                "seed": options.seed,
                "peers": options.peers,
                "minutes": options.minutes if options.steps is None else None,
                "steps": options.steps,
                "run": options.run,
                "busy": options.busy,
                "means": self._means,
                "left_out": out,
                "replayed": {"rounds": replayed.rounds, "recomputed": replayed.recomputed},
                "findings": found,
            }
            write(options.out, title, rows, ends, undisturbed, more)
        for finding in found:
            print(f"FOUND {finding}")
        return len(found)


def write_document(path: Path) -> int:
    """Put the result that is in a file into docs/guarantees.md; returns the exit code."""
    try:
        document.write(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        print(f"chaos: {path} is missing: `make chaos` writes it", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"chaos: {path} is nothing to document: {error}", file=sys.stderr)
        return 2
    print(f"{document.DOCUMENT.relative_to(ROOT)} has the table of {path}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit code."""
    options = parser().parse_args(arguments)
    if options.document:
        return write_document(options.out)
    if options.check is not None:
        records = read(options.check / "disturbed")
        found = findings(records) + replay(options.check / "disturbed", records, load_artifacts(ARTIFACTS)).findings
        print("\n".join(found) or "nothing found")
        return 1 if found else 0

    def terminated(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)
    start_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - start_s:7.2f} {text}", flush=True)

    chaos = Chaos(options, say)
    try:
        found = chaos.run()
    except KeyboardInterrupt:
        shutil.rmtree(chaos.folder, ignore_errors=True)
        print("chaos: interrupted; everything that it started has ended", file=sys.stderr)
        return 130
    except (EdgePeerError, DataError, OSError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    if found:
        print(f"{found} found; seed {options.seed}; everything is in {chaos.folder}")
        return 1
    print(f"every invariant held{f'; everything is in {chaos.folder}' if options.keep else ''}")
    if not options.keep:
        shutil.rmtree(chaos.folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
