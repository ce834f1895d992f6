"""docs/robustness.md says what the rules say of themselves, and its measurements have the form of the benchmark's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aggregator_core.rules import RULES, make_rule
from bench.attacks.__main__ import BYZANTINE, EXAMPLES, PEERS, ROUNDS, SEEDS
from bench.attacks.scenarios import ATTACKS, NAMES, NO_ATTACK
from edge_peer.config import load_config
from edge_peer.shell.aggregation import rule_of

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/robustness.md"


def tables() -> list[list[list[str]]]:
    """Cells of the document's tables, line by line, without the line below the head."""
    found = re.findall(r"(?:^\|.*\n)+", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    rows = [[[cell.strip(" `*") for cell in line.strip("|").split("|")] for line in it.splitlines()] for it in found]
    return [[head, *lines] for head, _, *lines in rows]


def table(first: str) -> list[list[str]]:
    """The table whose head begins so."""
    (found,) = [it for it in tables() if it[0][0] == first]
    return found


def measured() -> list[list[list[str]]]:
    return [it for it in tables() if it[0][1] == NO_ATTACK]


def test_what_rules_bear_is_what_they_say() -> None:
    (_, *numbers), *rows = table("bad boards borne")
    named = [name for row in rows for name in row[0].replace("`", "").split(", ")]
    assert sorted(named) == sorted(RULES)
    for first, *cells in rows:
        for name in first.replace("`", "").split(", "):
            for number, cell in zip(numbers, cells, strict=True):
                assert int(cell) == make_rule(name).tolerates(int(number.removeprefix("of "))), f"{name}, {number}"


def test_every_robust_rule_has_advice() -> None:
    advised = {name for row in table("rule")[1:] for name in row[0].replace("`", "").split(", ")}
    assert advised == set(NAMES)


def test_measured_tables_have_the_rules_and_attacks_of_the_benchmark() -> None:
    assert len(measured()) == 3
    for head, *rows in measured():
        assert head[1:] == [NO_ATTACK, *(it.title for it in ATTACKS), "worst"]
        assert [row[0] for row in rows] == list(NAMES)
        for row in rows:
            if "needs" in row[1]:
                assert row[1] == f"needs {make_rule(row[0]).needs(4)}"
                continue
            values = [float(it) for it in row[1:]]
            assert values[-1] == pytest.approx(min(values))


def test_the_settings_are_those_of_the_benchmark() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"{PEERS} peers of {EXAMPLES} images, {BYZANTINE} of them bad, {ROUNDS} rounds, {SEEDS} seeds" in text


def test_the_configuration_chooses_a_rule_that_bears_two(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```toml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    path = tmp_path / "config.toml"
    path.write_text(
        f'{code}\n[peer]\nname = "a"\nstate_dir = "state"\n[model]\nartifacts = "model"\n'
        '[shard]\npath = "shards/a.safetensors"\n'
    )
    assert rule_of(load_config(path).run) == make_rule("trimmed_mean", byzantine=2)
