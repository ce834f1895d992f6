"""Accuracy of aggregation rules under attack: `python -m bench.attacks`, or `make bench-attacks`.

Rules down, attacks across, in each cell the accuracy of federations with LiteRTTrainer, real images and bad peers.
Divisions, initial weights and orders of examples are the same in all cells, and differ by seed. A rule that cannot bear
so many bad peers among so many refuses: then its cells say how many peers it needs.

The bound of fixed clipping is the median norm of updates in a federation of another seed without an attack: what an
operator sees of a fleet that he trusts.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.attacks.federation import LAST, Setting, federate, shards_of, usual_norm
from bench.attacks.scenarios import ATTACKS, NAMES, NO_ATTACK, rule_of
from bench.tables import report
from data_shards.datasets import load_dataset
from edge_peer.trainers.artifacts import load_artifacts
from edge_peer.trainers.backends import make_trainer

ARTIFACTS = Path(__file__).resolve().parents[2] / "models/artifacts/image_cnn"
#: The fewest among which every rule bears two bad ones.
PEERS, BYZANTINE = 11, 2
SPLIT = "iid"
EXAMPLES = 600
ROUNDS = 15
SEEDS = 2
#: The seed of the federation that only bounds come from; the others are from 1.
SEED_OF_BOUNDS = 0


def cells(name: str, settings: Sequence[Setting], norm_max: float) -> dict[str, list[float]] | str:
    """Accuracies of a rule by column, one a setting; or why there are none."""
    f = settings[0].bad
    rule = rule_of(name, f, settings[0].artifacts.layout, norm_max)
    if rule.required > rule.tolerates(len(settings[0].shards)):
        return f"needs {rule.needs(f)}"
    found: dict[str, list[float]] = {}
    for attack in (None, *ATTACKS):
        title = attack.title if attack else NO_ATTACK
        found[title] = [federate(setting, rule, attack) for setting in settings]
        print(f"{name}, {title}: {', '.join(f'{it:.3f}' for it in found[title])}", flush=True)
    return found


def row_of(name: str, found: dict[str, list[float]] | str) -> dict[str, Any]:
    """A row of the table; how far the seeds of a cell are apart, at most, is in points."""
    titles = (NO_ATTACK, *(attack.title for attack in ATTACKS))
    if isinstance(found, str):
        return {"rule": name, **dict.fromkeys(titles, found), "worst": "", "seeds apart": ""}
    means = {title: round(statistics.mean(found[title]), 3) for title in titles}
    apart = max(100 * (max(it) - min(it)) for it in found.values())
    return {"rule": name, **means, "worst": min(means.values()), "seeds apart": round(apart, 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.attacks", description="accuracy of rules under attack")
    parser.add_argument("--peers", type=int, default=PEERS, help="bad ones among them (default %(default)s)")
    parser.add_argument("--byzantine", type=int, default=BYZANTINE, help="bad peers (default %(default)s)")
    parser.add_argument("--split", default=SPLIT, help="as data_shards has it (default %(default)s)")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of a peer, at most (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each federation (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of division and order (default %(default)s)")
    parser.add_argument("--rules", nargs="+", choices=NAMES, default=NAMES, help="only these")
    options = parser.parse_args(arguments)
    peers, bad = options.peers, options.byzantine
    if not 1 <= bad < peers / 2:
        parser.error(f"--byzantine {bad}: choose from 1 and below half of {peers} peers; a majority is never borne")
    if min(options.examples, options.rounds, options.seeds) < 1:
        parser.error("--examples, --rounds and --seeds: choose 1 or more")

    dataset = load_dataset("fashion-mnist", say=print)
    artifacts = load_artifacts(ARTIFACTS)
    trainer = make_trainer("litert", artifacts, 1)

    def setting(seed: int) -> Setting:
        shards = shards_of(dataset, options.split, peers, options.examples, seed)
        return Setting(trainer, artifacts, shards, (dataset.x_test, dataset.y_test), bad, options.rounds, seed)

    norm_max = usual_norm(setting(SEED_OF_BOUNDS))
    settings = [setting(seed) for seed in range(1, options.seeds + 1)]
    found = {name: cells(name, settings, norm_max) for name in options.rules}
    usual = (peers, bad, options.split) == (PEERS, BYZANTINE, SPLIT)
    report(
        "attacks" if usual else f"attacks_{peers}_{bad}_{options.split.replace(':', '')}",
        f"Accuracy under attack, image_cnn on Fashion-MNIST, {peers} peers with up to {options.examples} images, "
        f"{bad} of them bad, {options.split}, {options.rounds} rounds (mean of the last {LAST}), "
        f"{options.seeds} seeds, fixed clipping at {norm_max:.2f}",
        [row_of(name, it) for name, it in found.items()],
    )


if __name__ == "__main__":
    main()
