"""docs/protocol.md says what the code says; `python -m tests.test_protocol_document` writes its tables anew."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docs.tables import attributes
from edge_peer.protocol.messages import Evaluation, Presence, Report, Round, Start, Stop, Vote
from edge_peer.protocol.onlookers import History, Sending
from edge_peer.protocol.roles import TRANSITIONS
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import Delta, ModelRef, UpdateOffer
from edge_peer.protocol.tenure import CHANGES
from edge_peer.protocol.topics import FOR_ONLOOKERS, KINDS, RETAINED, TENSORS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "protocol.md"
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
RULE = re.compile(r"\b[MECURTDI]\d+\b")
#: kind -> (what it carries, who writes it)
SAID = {
    "presence": (Presence, "every peer; the broker, as its last will"),
    "vote": (Vote, "every peer that votes"),
    "round": (Round, "the controller"),
    "model": (ModelRef, "the controller, retained; a peer that is asked for it, not retained"),
    "delta": (Delta, "the controller, where the run's downlink is a codec"),
    "update": (UpdateOffer, "a trainer"),
    "evaluation": (Evaluation, "every peer with a test split"),
    "stop": (Stop, "any peer, or the operator"),
    "start": (Start, "any peer, or the operator"),
}
PARTS = (ModelRef, RunSettings, Report)
FOR_PEOPLE = {"sending": Sending, "history": History}


def topics() -> str:
    rows = [
        (
            f"`{kind}`",
            "yes" if kind in RETAINED else "no",
            f"`{said.__name__}`{', with tensors' * (kind in TENSORS)}",
            who,
        )
        for kind, (said, who) in SAID.items()
    ]
    return table(("kind", "retained", "payload", "written by"), rows)


def documents() -> str:
    kinds = {said: kind for kind, (said, _) in SAID.items()}
    return described(kinds, [*(it for it in kinds if it not in PARTS), *PARTS])


def onlookers() -> str:
    return described({said: kind for kind, said in FOR_PEOPLE.items()}, list(FOR_PEOPLE.values()))


def described(kinds: dict[Any, str], documents: list[Any]) -> str:
    blocks = []
    for said in documents:
        where = f" (`{kinds[said]}`)" if said in kinds else ""
        about = attributes(said)
        hints = typing.get_type_hints(said)
        rows = [(f"`{item.name}`", type_name(hints[item.name]), about[item.name]) for item in dataclasses.fields(said)]
        summary = inspect.cleandoc(said.__doc__ or "").split("\n\n", maxsplit=1)[0]
        blocks.append(f"### `{said.__name__}`{where}\n\n{summary}\n\n{table(('field', 'type', 'what it is'), rows)}")
    return "\n".join(blocks)


def roles() -> str:
    return table(("role", "what happens", "role after it"), [(*key, after) for key, after in TRANSITIONS.items()])


def phases() -> str:
    return table(("phase", "phase after it", "why"), [(*key, why) for key, why in CHANGES.items()])


TABLES: dict[str, Callable[[], str]] = {
    "topics": topics,
    "documents": documents,
    "onlookers": onlookers,
    "roles": roles,
    "phases": phases,
}


def type_name(hint: Any) -> str:
    arguments = [it for it in typing.get_args(hint) if it is not type(None)]
    if isinstance(hint, types.UnionType):
        return f"{type_name(arguments[0])} or null"
    if typing.get_origin(hint) is dict:
        return f"object of {type_name(arguments[1])}"
    if typing.get_origin(hint) is tuple:
        return "list of numbers" if isinstance(arguments[0], types.UnionType) else "list of texts"
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(hint, f"`{getattr(hint, '__name__', hint)}`")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def renewed(text: str) -> str:
    return BLOCK.sub(lambda it: it[1] + TABLES[it[2]]() + it[3], text)


def test_the_tables_are_those_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert {it[2] for it in BLOCK.finditer(text)} == set(TABLES)
    assert text == renewed(text), "run python -m tests.test_protocol_document"


def test_every_kind_has_a_payload() -> None:
    assert set(SAID) == KINDS
    assert set(FOR_PEOPLE) == FOR_ONLOOKERS


@pytest.mark.parametrize("said", [*(it for it, _ in SAID.values()), RunSettings, Report], ids=lambda it: it.__name__)
def test_every_field_is_described(said: type[Any]) -> None:
    assert list(attributes(said)) == [item.name for item in dataclasses.fields(said)]


def test_every_rule_is_cited_by_a_test_and_every_citation_is_a_rule() -> None:
    rules = re.findall(r"^- \*\*([MECURTDI]\d+)\*\*", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(set(rules)) == len(rules) > 50
    sources = [*Path(__file__).parent.glob("test_protocol_*.py"), Path(__file__).parent / "test_sim.py"]
    cited = {
        rule
        for path in sources
        if path != Path(__file__)
        for comment in re.findall(r'(?:"""|# )(.*)', path.read_text(encoding="utf-8"))
        for rule in RULE.findall(comment)
    }
    assert cited - set(rules) == set()
    assert set(rules) - cited == set()


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
