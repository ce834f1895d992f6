"""docs/guarantees.md claims nothing that no test or checker shows, and names none that does not exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.sim.mutants import MUTANTS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/guarantees.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::([\w.]+)`")
#: Whose statements say what does not hold, which no test shows.
EXEMPT = "What is not guaranteed"


def sections() -> dict[str, str]:
    """Text of each section by its heading; that before the first has none."""
    # Somebody else writes what stands between these marks.
    text = re.sub(r"<!-- chaos -->.*?<!-- end of chaos -->", "", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    head, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    return {"": head, **{it.partition("\n")[0]: it.partition("\n")[2] for it in parts}}


def statements(text: str) -> list[str]:
    """The text's bullets, each on one line."""
    return [" ".join(it.split()) for it in re.findall(r"^- (.*(?:\n  .*)*)", text, re.MULTILINE)]


@cache
def defined(path: Path) -> frozenset[str]:
    """Functions and methods of a file."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{it.name}" for it in node.body if isinstance(it, ast.FunctionDef)}
    return frozenset(names)


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(DOCUMENT.read_text(encoding="utf-8")))))
def test_whatever_is_named_exists(file: str, name: str) -> None:
    assert (ROOT / file).is_file(), f"there is no {file}"
    assert name in defined(ROOT / file), f"{file} has no {name}"
    if not file.startswith("tests/sim/"):
        assert name.startswith("test_"), f"{name} is no test"


@cache
def complaints(file: str, name: str) -> str:
    """What a checker of the simulator can say."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = [
        it
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for it in node.body
        if isinstance(it, ast.FunctionDef) and f"{node.name}.{it.name}" == name
    ]
    return " ".join(it.value for it in ast.walk(found[0]) if isinstance(it, ast.Constant) and isinstance(it.value, str))


@pytest.mark.parametrize(
    ("file", "name"),
    sorted({it for it in NAMED.findall(DOCUMENT.read_text(encoding="utf-8")) if "/sim/" in it[0]}),
)
def test_each_checker_that_is_named_catches_a_core_that_is_broken_on_purpose(file: str, name: str) -> None:
    assert any(mutant.caught_as in complaints(file, name) for mutant in MUTANTS), f"no mutant is caught by {name}"


def test_every_statement_names_what_shows_it() -> None:
    for heading, text in sections().items():
        for statement in statements(text):
            if heading == EXEMPT:
                assert not NAMED.search(statement)
            else:
                assert NAMED.search(statement), f"nothing shows: {statement}"
                # Each half of a statement has its own.
                assert statement.rstrip(".").endswith("`"), f"what shows it does not end it: {statement}"


def test_nothing_is_claimed_beside_the_statements() -> None:
    for heading, text in sections().items():
        rest = re.sub(r"^- .*(?:\n  .*)*", "", text, flags=re.MULTILINE).split()
        if heading not in ("", EXEMPT):
            assert len(rest) <= 10, f"{heading}: {' '.join(rest)}"


def test_every_invariant_of_the_protocol_is_there() -> None:
    invariants = re.findall(r"^- \*\*(I\d+)\*\*", (ROOT / "docs/protocol.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(invariants) >= 12
    said = [
        it
        for text in sections().values()
        for statement in statements(text)
        for it in re.findall(r"\((I\d+)\)", statement)
    ]
    assert sorted(said) == sorted(invariants), "each once"


def test_the_number_of_simulated_federations_is_that_of_the_test() -> None:
    from test_sim import SEEDS

    assert f"every step of {SEEDS} simulated federations" in " ".join(DOCUMENT.read_text(encoding="utf-8").split())


def test_the_place_of_the_chaos_table_is_marked() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.count("<!-- chaos -->") == text.count("<!-- end of chaos -->") == 1
