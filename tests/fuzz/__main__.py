"""Fuzz the decoders: `python -m tests.fuzz [TARGET...]`; `--help` says what else."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from tests.fuzz.coverage import Tracer, possible, smallest
from tests.fuzz.session import Result, fuzz, unsupported
from tests.fuzz.target import CORPUS, check, corpus, load, names

GROWN = Path(".fuzz")


def main() -> int:
    """Returns the exit code: 1 when something was found."""
    options = _arguments()
    chosen = options.targets or names()
    if options.replay:
        return _replay(chosen, options.replay)
    if options.coverage:
        return _coverage(chosen, options.grown)
    if options.seed_corpus or options.minimise:
        return _minimise(chosen, options.grown, options.seed_corpus)
    why = unsupported()
    if why:
        print(f"no fuzzing: {why}; only the corpus is replayed", file=sys.stderr)
        return max(_replay([name], [str(it) for it in corpus(name)]) for name in chosen)
    try:
        results = fuzz(chosen, options.seconds, options.grown, options.jobs, options.seed, _say)
    except KeyboardInterrupt:
        print("\nstopped; what has been found so far is kept", file=sys.stderr)
        return 130
    print(f"\n{'target':16} {'inputs':>10} {'a second':>9} {'edges':>6} {'corpus':>7}  found")
    for it in results:
        print(it.row())
    for it in results:
        for path in it.findings:
            print(f"\n{it.report}\n{path}\nreplay: python -m tests.fuzz {it.target} --replay {path}")
    return 1 if any(it.failed for it in results) else 0


def _say(result: Result) -> None:
    print(f"\r\033[K{result.row()}" if sys.stdout.isatty() else result.row(), end="", flush=True)
    if not sys.stdout.isatty() or result.done:
        print()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the decoders by coverage.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all unless named: {', '.join(names())}")
    parser.add_argument("--seconds", type=int, default=10, help="for each target (default: 10)")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations; 0, the default: another one every time")
    parser.add_argument(
        "--corpus",
        dest="grown",
        type=Path,
        default=GROWN,
        help=f"folder of inputs and findings that grow from run to run (default: {GROWN})",
    )
    parser.add_argument("--replay", nargs="+", metavar="FILE", help="run these inputs of one target, without atheris")
    parser.add_argument("--coverage", action="store_true", help="say which lines the corpora reach")
    parser.add_argument(
        "--minimise", action="store_true", help=f"write what is worth keeping of --corpus into {CORPUS.name}/"
    )
    parser.add_argument(
        "--seed-corpus", action="store_true", help="the same, with new documents of a real run (Mosquitto)"
    )
    options = parser.parse_args()
    unknown = {name for name in options.targets if "." not in name} - set(names())
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    if options.replay and len(options.targets) != 1:
        parser.error("--replay needs the one target that the files are of")
    return options


def _replay(chosen: list[str], files: list[str]) -> int:
    (name,) = chosen
    target, found = load(name), 0
    for file in files:
        try:
            print(f"{file}: {check(target, Path(file).read_bytes())}")
        except Exception:  # noqa: BLE001 - it is what is looked for
            found = 1
            print(f"{file}:")
            traceback.print_exc()
    return found


def _inputs(name: str, grown: Path) -> list[bytes]:
    folders = (CORPUS / name, grown / name / "corpus")
    return [path.read_bytes() for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]


def _coverage(chosen: list[str], grown: Path) -> int:
    for name in chosen:
        target = load(name)
        tracer = Tracer(target.modules)
        lines, outcomes = set(), set()
        for data in _inputs(name, grown):
            outcome, reached = tracer.run(target, data)
            lines |= reached
            outcomes.add(outcome)
        print(f"{name}: {len(target.outcomes & outcomes)} of {len(target.outcomes)} outcomes")
        for file in sorted(tracer.files):
            every = possible(file)
            missed = sorted(line for path, line in every - lines if path == file)
            share = 100 * (len(every) - len(missed)) / max(1, len(every))
            shown = ", ".join(map(str, missed[:25])) + (" ..." if len(missed) > 25 else "")
            print(f"  {share:5.1f} % of {len(every):3} lines  {Path(file).name:24} {'not ' + shown if missed else ''}")
    return 0


def _minimise(chosen: list[str], grown: Path, anew: bool) -> int:
    more: dict[str, list[bytes]] = {}
    if anew:
        from tests.fuzz.seeds import seeds

        for name, data in seeds():
            more.setdefault(name, []).append(data)
    for name in chosen:
        target = load(name)
        inputs = [*more.get(name, ()), *_inputs(name, grown)]
        kept = smallest(target, [it for it in inputs if len(it) <= target.length_max])
        with tempfile.TemporaryDirectory() as folder:
            for number, data in enumerate(kept):
                (Path(folder) / f"{number:03}").write_bytes(data)
            shutil.rmtree(CORPUS / name, ignore_errors=True)
            shutil.copytree(folder, CORPUS / name)
        print(f"{name}: {len(kept)} of {len(inputs)} inputs, {sum(map(len, kept))} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
