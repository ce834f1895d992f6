"""The main job on one machine: `python -m edge_peer.operator.demo`, what `make demo` runs.

A Mosquitto of its own, peers as separate processes, real data. In the middle of the run the controller is killed
(SIGKILL) and started again a moment later, as systemd would; the run goes on. What is left stands in `runs/<run id>/`.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from data_shards.__main__ import peer_names
from data_shards.build import build
from data_shards.datasets import load_dataset
from data_shards.errors import DataError
from data_shards.picture import draw
from edge_peer.errors import BrokerError, EdgePeerError
from edge_peer.operator.fleet.collect import gather
from edge_peer.operator.graphs import draw_run
from edge_peer.operator.live.federation import WATCHED, Federation
from edge_peer.operator.live.progress import Progress, seconds
from edge_peer.operator.live.session import Session
from edge_peer.operator.live.story import Story
from edge_peer.operator.local.broker import DASHBOARD, HOST, LocalBroker, require_mosquitto
from edge_peer.operator.local.peers import LocalFleet
from edge_peer.operator.runs.files import INT8_MODEL, REPORT, point_latest
from edge_peer.operator.runs.results import Results, read_results
from edge_peer.protocol.messages import FINISHED, TRAINING
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.topics import EVALUATION, ROUND
from edge_peer.trainers.artifacts import load_artifacts

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FEDERATION = "demo"
ARTIFACTS = Path(__file__).resolve().parents[2] / "models/artifacts"
#: Data sets and splits whose names say all that there is to know about them.
PUBLISHED = frozenset({"fashion-mnist", "shoulder-watch"})
SPLITS = frozenset({"iid", "dirichlet", "labels", "quantity", "subjects"})
EXAMPLES = """examples:
  python -m edge_peer.operator.demo --peers 8 --rounds 20 --target 0.88
  python -m edge_peer.operator.demo --split dirichlet:0.3 --kill none
  python -m edge_peer.operator.demo --model sensor_cnn --split subjects --epochs 3
  python -m edge_peer.operator.demo --run codec=int8 downlink=int8 "rule_parameters={ byzantine = 0 }" rule=krum"""


class DemoError(EdgePeerError):
    """The demo cannot go on; the message says why and what to do."""


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    it = argparse.ArgumentParser(
        prog="make demo",
        description="Run a whole federation on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    it.add_argument("--peers", type=int, default=4, help="how many (default: %(default)s)")
    it.add_argument("--rounds", type=int, default=10, help="at most (default: %(default)s)")
    it.add_argument("--target", type=float, help="stop at this accuracy, such as 0.88")
    it.add_argument("--split", default="iid", help="iid, dirichlet:0.3, labels:2, quantity:1, subjects (%(default)s)")
    it.add_argument("--dataset", help="a name, a folder of IDX files, or an .npz (default: what the model is made for)")
    it.add_argument("--examples", type=int, default=3000, help="training examples a peer (default: %(default)s)")
    it.add_argument("--epochs", type=int, default=1, help="local epochs a round (default: %(default)s)")
    it.add_argument("--learning-rate", type=float, default=0.0, help="of the optimizer (default: the model's)")
    it.add_argument("--proximal", type=float, default=0.0, help="strength of FedProx's term (default: none)")
    it.add_argument(
        "--run",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="further keys of [run], values as in TOML or plain words: rule=median codec=int8 downlink=int8",
    )
    it.add_argument("--seed", type=int, default=1, help="of division and training (default: %(default)s)")
    it.add_argument("--kill", default="auto", help="kill the controller in this round, auto or none (%(default)s)")
    it.add_argument(
        "--model", type=Path, default=Path("image_cnn"), help="folder of artifacts, the model's file, or its name"
    )
    it.add_argument("--runs", type=Path, default=Path("runs"), help="where results go (default: %(default)s)")
    it.add_argument("--shards", type=Path, default=Path("shards"), help="where data is kept (default: %(default)s)")
    it.add_argument("--stall", type=float, default=120, help="give up after so many seconds without news (%(default)s)")
    return it


@dataclass(slots=True)
class Kill:
    """The controller's death: planned for a round, done at a time, over when a new one has opened a round.

    Attributes:
        round: When to; None: never.
        recovery_s: From the kill to the next controller's first round document.
    """

    round: int | None
    victim: str = ""
    at_s: float = 0.0
    recovery_s: float | None = None


def kill_round(text: str, rounds: int) -> int | None:
    """Which round to kill the controller in; raises DemoError."""
    if text == "none":
        return None
    if text == "auto":
        return max(1, (rounds + 1) // 2)
    if not text.isdecimal() or not 1 <= int(text) <= rounds:
        raise DemoError(f"--kill {text!r}: choose auto, none, or a round from 1 to {rounds}")
    return int(text)


def run_settings(pairs: list[str]) -> dict[str, Any]:
    """What `--run` names, as keys of the [run] table; raises DemoError."""
    known = {item.name for item in dataclasses.fields(RunSettings)}
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if key not in known or not equals:
            raise DemoError(f"--run {pair!r}: write KEY=VALUE; keys are {', '.join(sorted(known))}")
        try:
            settings[key] = tomllib.loads(f"{key} = {text}")[key]
        except tomllib.TOMLDecodeError:
            # A word need not stand in quotes.
            settings[key] = text
    return settings


def artifacts_folder(model: Path) -> Path:
    """Where the artifacts of a model are that is named by folder, by its Python file, or by name."""
    if model.is_dir():
        return model
    by_name = ARTIFACTS / model.stem
    return by_name if model.suffix == ".py" or by_name.is_dir() else model


def prepare_shards(options: argparse.Namespace, peers: list[str], say: Callable[[str], None]) -> Path:
    """A folder with a shard for each peer: made now, or by an earlier start with the same arguments."""
    what = {
        "dataset": options.dataset,
        "split": options.split,
        "seed": options.seed,
        "examples": options.examples,
        "peers": len(peers),
    }
    name = "-".join(str(value).replace("/", "_").replace(":", "") for value in what.values())
    folder: Path = options.shards / name
    # Own files and functions can change under the same name.
    cached = options.dataset in PUBLISHED and options.split.partition(":")[0] in SPLITS
    if not (
        cached and (folder / "shards.png").is_file() and all((folder / f"{it}.safetensors").is_file() for it in peers)
    ):
        dataset = load_dataset(options.dataset, options.seed, say)
        say(f"dividing {dataset.name} among {len(peers)} peers ({options.split})")
        manifest = build(dataset, peers, options.split, options.seed, folder, options.examples)
        draw(manifest, folder / "shards.png")
    return folder


class Demo:
    """One run of the demo.

    Args:
        options: Of the command line.
        console: Where to say things.
    """

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self._options = options
        self._console = console
        self._kill = Kill(kill_round(options.kill, options.rounds))
        self._run_id: str | None = None
        self._federation = Federation()

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def run(self) -> Path:
        """Do it all; returns the run's folder."""
        options = self._options
        if not 2 <= options.peers <= 256:
            raise DemoError(f"--peers {options.peers}: choose 2 to 256")
        if self._kill.round is not None and options.peers < 3:
            # The one that is left would be no majority of two.
            if options.kill != "auto":
                raise DemoError(f"--kill {options.kill}: of {options.peers} peers none would be left to elect; use 3")
            self._kill.round = None
        options.model = artifacts_folder(options.model)
        artifacts = load_artifacts(options.model)
        options.dataset = options.dataset or artifacts.dataset
        program = require_mosquitto(self._say)
        peers = peer_names(str(options.peers))
        shards = prepare_shards(options, peers, self._say)
        stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        work: Path = options.runs / f"{stamp}.unfinished"
        work.mkdir(parents=True)
        point_latest(options.runs, work)
        broker = LocalBroker(work, program, dashboard=FEDERATION)
        fleet = LocalFleet(work.resolve(), self._tables(peers))
        try:
            broker.start()
            for peer in peers:
                shard = {"path": str((shards / f"{peer}.safetensors").resolve())}
                fleet.configure(peer, {"broker": {"port": broker.port}, "shard": shard})
            title = f"{len(peers)} peers train {artifacts.model_id} on {options.dataset}, {options.split}; "
            self._say(f"live page: http://{HOST}:{broker.page_port}/ (until the run ends)")
            fleet.start(peers)
            self._watch(fleet, broker, title + f"broker {HOST}:{broker.port}; logs in {work}/logs/")
        finally:
            fleet.stop()
            broker.stop()
            shutil.rmtree(work / DASHBOARD, ignore_errors=True)
            folder = self._put_away(work, peers, fleet)
        shutil.copyfile(shards / "shards.png", folder / "shards.png")
        results = read_results(folder)
        draw_run(results, folder)
        self._summary(results, folder)
        return folder

    def _tables(self, peers: list[str]) -> dict[str, dict[str, Any]]:
        options = self._options
        return {
            "federation": {"name": FEDERATION, "roster": tuple(peers), "min_peers": len(peers)},
            "broker": {"host": HOST},
            "model": {"artifacts": str(options.model.resolve())},
            "run": {
                "rounds_max": options.rounds,
                "target_accuracy": options.target,
                "epochs": options.epochs,
                "learning_rate": options.learning_rate,
                "proximal": options.proximal,
                "seed": options.seed,
                "updates_min": max(1, len(peers) // 2),
                **run_settings(options.run),
            },
            "limits": {"peers_max": max(len(peers), 16)},
        }

    # ------------------------------------------------------------------ while it runs

    def _watch(self, fleet: LocalFleet, broker: LocalBroker, title: str) -> None:
        from edge_peer.config import BrokerSection  # noqa: PLC0415

        federation = self._federation
        story = Story(federation)
        section = BrokerSection(host=HOST, port=broker.port)
        heard_s = time.monotonic()
        with (
            Session(section, FEDERATION, "operator") as session,
            Progress(federation, title, self._console) as progress,
        ):
            session.subscribe(WATCHED)
            while not self._finished():
                news: list[str] = []
                for document in session.take(0.5):
                    # One after the other: what lasted for one document only has happened, too.
                    federation.take(*document)
                    news += story.tell() + self._after_kill(fleet) + self._kill_if_due(fleet)
                    if document[1] in (ROUND, EVALUATION):
                        # Not presences and votes: an election that never ends is full of them.
                        heard_s = time.monotonic()
                progress.update(news)
                for peer, code in fleet.exited().items():
                    raise DemoError(f"{peer} ended with exit code {code}; its log ends:\n{fleet.last_lines(peer)}")
                if time.monotonic() > heard_s + self._options.stall:
                    raise DemoError(f"nothing has happened for {self._options.stall:g} s; see the logs")

    def _finished(self) -> bool:
        document = self._federation.round
        if document is not None and document.run_id is not None:
            self._run_id = document.run_id
        return document is not None and document.state == FINISHED and document.complete

    def _kill_if_due(self, fleet: LocalFleet) -> list[str]:
        kill, controller, document = self._kill, self._federation.controller, self._federation.round
        if kill.round is None or kill.victim or controller is None or document is None:
            return []
        if document.state != TRAINING or document.round < kill.round:
            return []
        kill.victim, kill.at_s = controller, time.monotonic()
        fleet.kill(controller)
        return [f"{controller}, the controller, is killed (SIGKILL) in round {document.round}"]

    def _after_kill(self, fleet: LocalFleet) -> list[str]:
        kill, controller, document = self._kill, self._federation.controller, self._federation.round
        if not kill.victim or kill.recovery_s is not None or controller in (None, kill.victim):
            return []
        if document is None or document.run_id is None:
            return []
        kill.recovery_s = time.monotonic() - kill.at_s
        fleet.start([kill.victim])
        return [
            f"{controller} goes on with the run {kill.recovery_s:.2f} s after the kill; {kill.victim} is started again"
        ]

    # ------------------------------------------------------------------ afterwards

    def _put_away(self, work: Path, peers: list[str], fleet: LocalFleet) -> Path:
        """The work folder becomes the run's folder; the peers' states, which nobody needs any more, go."""
        if self._run_id is None:
            return work
        gather({peer: fleet.state_dir(peer) for peer in peers}, self._run_id, work)
        for peer in peers:
            shutil.rmtree(fleet.state_dir(peer), ignore_errors=True)
            (work / "config" / f"{peer}.given.toml").write_bytes(fleet.configuration(peer).read_bytes())
            fleet.configuration(peer).unlink()
        folder: Path = self._options.runs / self._run_id
        work.rename(folder)
        (folder / "mosquitto.log").rename(folder / "logs" / "mosquitto.log")
        point_latest(self._options.runs, folder)
        return folder

    def _summary(self, results: Results, folder: Path) -> None:
        table = Table(
            title=f"Run {results.run_id}: {results.end()}",
            title_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        for name in ("peer", "role", "rounds", "own", "global", "int8", "train s", "sent MB", "RAM MB"):
            table.add_column(name, justify="left" if name in ("peer", "role") else "right", no_wrap=True)
        for peer, rows in results.peers.items():
            last = rows[-1]
            trained = [row for row in rows if row.examples]
            own = next((row.local_accuracy for row in reversed(rows) if row.local_accuracy is not None), None)
            table.add_row(
                peer,
                last.role,
                str(len(trained)),
                f"{own:.3f}" if own is not None else "",
                f"{last.global_accuracy:.3f}",
                f"{last.int8_accuracy:.3f}" if last.int8_accuracy is not None else "",
                f"{sum(row.training_s or 0 for row in rows):.2f}",
                f"{sum(row.bytes_sent for row in rows) / 1e6:.2f}",
                f"{last.rss_peak_bytes / 1e6:.0f}",
            )
        self._console.print()
        self._console.print(table)
        accuracy = results.accuracy()
        rounds = results.round_seconds()
        mean_s = sum(rounds.values()) / max(1, len(rounds))
        int8 = results.int8_accuracy()
        line = f"accuracy {accuracy[max(accuracy)]:.4f}"
        if int8:
            line += f", int8 {int8[max(int8)]:.4f},"
        line += f" after {len(rounds)} rounds of {seconds(mean_s)}"
        if self._kill.recovery_s is not None:
            line += f"; the death of {self._kill.victim} cost {self._kill.recovery_s:.2f} s"
        self._say(line)
        model = "model.int8.tflite, " if (folder / INT8_MODEL).is_file() else ""
        self._say(f"results in {folder}/: CSVs, {folder}/graphs/, {model}model.safetensors, rounds.jsonl, logs/")
        self._say(f"the whole run on one page: {folder / REPORT}")


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    options = parser().parse_args(arguments)
    console = Console()

    def terminated(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)
    try:
        Demo(options, console).run()
    except KeyboardInterrupt:
        print("demo: interrupted; everything that it started has ended", file=sys.stderr)
        return 130
    except (EdgePeerError, DataError, BrokerError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
