"""Command line: `python -m data_shards --peers 4 --split dirichlet:0.3 --out shards`."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from data_shards.build import build
from data_shards.datasets import load_dataset
from data_shards.errors import DataError

EXAMPLES = """examples:
  python -m data_shards --peers 4 --out shards
  python -m data_shards --peers kitchen,garage,roof --split dirichlet:0.3 --seed 7 --out shards
  python -m data_shards --dataset shoulder-watch --split subjects --out shards
  python -m data_shards --dataset readings.npz --peers 10 --split labels:2 --examples 500 --out shards

data sets: fashion-mnist, shoulder-watch (7 exercises of 10 persons with a smartwatch), or files of your own.
splits: iid, dirichlet:ALPHA, labels:K, quantity:ALPHA, subjects (everyone gets whole persons or devices, where the data
set says whose its examples are), or module:function for your own (labels, peers, rng)."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    it = argparse.ArgumentParser(
        prog="python -m data_shards",
        description="Divide a data set among peers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    it.add_argument(
        "--dataset",
        default="fashion-mnist",
        help="fashion-mnist[:FOLDER], shoulder-watch[:FILE], a folder of IDX files, or an .npz file "
        "(default: %(default)s)",
    )
    it.add_argument("--peers", default="4", help="how many, or their names separated by commas (default: %(default)s)")
    it.add_argument("--split", default="iid", metavar="SCHEME", help="how to divide (default: %(default)s)")
    it.add_argument("--seed", type=int, default=1, help="same seed, same bytes (default: %(default)s)")
    it.add_argument("--examples", type=int, help="at most this many training examples a peer")
    it.add_argument("--test-examples", type=int, help="at most this many test examples a peer")
    it.add_argument("--out", type=Path, default=Path("shards"), help="folder to write to (default: %(default)s)")
    it.add_argument("--no-picture", action="store_true", help="do not draw shards.png (which needs matplotlib)")
    return it


def peer_names(text: str) -> list[str]:
    """`3` is peer1 to peer3, zero-padded so that they sort; anything else is a list of names; raises DataError."""
    if text.isdecimal():
        count = int(text[:9])
        if not 1 <= count <= 10_000:
            raise DataError(f"--peers {text[:20]}: choose 1 to 10000")
        width = len(str(count))
        return [f"peer{number:0{width}d}" for number in range(1, count + 1)]
    names = text.split(",")
    for name in names:
        if NAME.fullmatch(name) is None:
            raise DataError(f"--peers: {name[:80]!r} is not a name; use letters, digits, '.', '_' and '-', at most 64")
    if len(set(names)) != len(names):
        raise DataError(f"--peers {text}: a name stands twice; name each peer once")
    return names


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        for name in ("examples", "test_examples"):
            value = getattr(options, name)
            if value is not None and value < 1:
                raise DataError(f"--{name.replace('_', '-')} {value}: choose 1 or more")
        if options.seed < 0:
            raise DataError(f"--seed {options.seed}: choose 0 or more")
        peers = peer_names(options.peers)
        dataset = load_dataset(options.dataset, options.seed, lambda text: print(text, flush=True))
        manifest = build(
            dataset, peers, options.split, options.seed, options.out, options.examples, options.test_examples
        )
        if not options.no_picture:
            _picture(manifest, options.out / "shards.png")
    except (DataError, OSError) as error:
        print(f"data_shards: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("data_shards: interrupted; run it again, the folder is not whole", file=sys.stderr)
        return 130
    _table(manifest, options.out)
    return 0


def _picture(manifest: dict[str, Any], path: Path) -> None:
    try:
        from data_shards.picture import draw  # noqa: PLC0415 - needs matplotlib

        draw(manifest, path)
    except ImportError:
        print("no shards.png: matplotlib is not installed (pip install 'edge-peer[operator]')")


def _table(manifest: dict[str, Any], out: Path) -> None:
    print(f"{manifest['dataset']}, {manifest['scheme']}, seed {manifest['seed']}:")
    for peer, entry in manifest["peers"].items():
        classes = sum(count > 0 for count in entry["train_classes"])
        print(f"  {peer:12} {entry['train']:>7} training, {entry['test']:>6} test examples of {classes} classes")
    print(f"written to {out}/")


if __name__ == "__main__":
    raise SystemExit(main())
