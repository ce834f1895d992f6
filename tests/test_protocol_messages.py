"""Documents to JSON and back, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.fields import COUNT_MAX, Fields
from edge_peer.protocol.messages import (
    DECODERS,
    STATES,
    Document,
    Evaluation,
    Presence,
    Report,
    Round,
    Start,
    Stop,
    Vote,
    decode,
    encode,
)
from edge_peer.protocol.run_settings import PRIVACY, STRATEGIES, RunSettings
from edge_peer.protocol.tensors import Delta, ModelRef, UpdateOffer
from tests.sim.hand import KINDS, presence, ref, round_document

NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), max_size=40)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
COUNTS = st.integers(0, COUNT_MAX)
TERMS = st.integers(1, COUNT_MAX)
SHARES = st.floats(0, 1)
REPORTS = st.builds(
    Report, accuracy=SHARES, loss=st.floats(0, 1e30), examples=st.integers(1, 10**9), int8_accuracy=st.none() | SHARES
)
REFS = st.builds(ModelRef, run_id=NAMES, run_number=TERMS, round=COUNTS, term=TERMS, sha256=DIGESTS)
PARAMETERS = st.dictionaries(NAMES, st.floats(-1e15, 1e15), max_size=3)
SETTINGS = st.builds(
    RunSettings,
    rounds_max=st.integers(1, 1000),
    target_accuracy=st.none() | SHARES,
    learning_rate=SHARES,
    round_deadline_s=st.floats(0, 1e6),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    fraction=SHARES,
    proximal=SHARES,
    scaffold=st.booleans(),
    rule=NAMES,
    rule_parameters=PARAMETERS,
    server_optimizer=NAMES,
    server_parameters=PARAMETERS,
    codec=NAMES,
    error_feedback=st.booleans(),
    downlink=NAMES,
    privacy=st.sampled_from(sorted(PRIVACY)),
    privacy_clip=st.floats(1e-12, 1e9),
    privacy_noise=st.floats(1e-12, 1e6),
    privacy_delta=st.floats(1e-12, 0.5),
)
PRESENCES = st.builds(
    Presence,
    session=NAMES,
    online=st.booleans(),
    score=st.floats(0, 1e9),
    parts=st.dictionaries(NAMES, st.floats(-1e15, 1e15), max_size=3),
    examples=st.integers(0, 10**9),
    model_digest=DIGESTS,
    newest=st.none() | REFS,
    election=COUNTS,
    elected=COUNTS,
    finished=COUNTS,
    note=TEXTS,
    needs=st.none() | DIGESTS,
    strained=st.booleans(),
    health=st.dictionaries(NAMES, st.floats(-1e15, 1e15), max_size=3),
)


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    """Round documents whose fields fit each other."""
    state = draw(st.sampled_from(sorted(STATES)))
    base = draw(st.builds(ModelRef, NAMES, TERMS, st.integers(0, 1000), TERMS, DIGESTS))
    with_run = state != "waiting" or draw(st.booleans())
    return Round(
        session=draw(NAMES),
        term=draw(TERMS),
        beat=draw(COUNTS),
        state=state,
        model_id=draw(NAMES),
        model_digest=draw(DIGESTS),
        settings=draw(SETTINGS),
        run_id=base.run_id if with_run else None,
        run_number=base.run_number if with_run else 0,
        round=base.round + (state == "training"),
        base=base if with_run else None,
        participants=tuple(draw(st.lists(NAMES, unique=True, max_size=4))),
        accepted=draw(st.dictionaries(NAMES, DIGESTS, max_size=3)),
        missing=draw(st.dictionaries(NAMES, TEXTS, max_size=3)),
        wanted=draw(st.none() | DIGESTS),
        wanted_from=draw(st.none() | NAMES),
        reason=draw(TEXTS),
        accuracy=draw(st.none() | SHARES),
        int8_accuracy=draw(st.none() | SHARES),
        reports=draw(st.dictionaries(NAMES, REPORTS, max_size=3)),
        epsilon=draw(st.none() | st.floats(0, 1e30)),
    )


DOCUMENTS = st.one_of(
    PRESENCES,
    rounds(),
    st.builds(Vote, session=NAMES, term=TERMS, candidate=NAMES),
    st.builds(
        Evaluation, session=NAMES, run_id=NAMES, round=COUNTS, sha256=DIGESTS, report=REPORTS, final=st.booleans()
    ),
    st.builds(Stop, run_id=NAMES, reason=TEXTS),
    st.builds(Start, after=COUNTS),
)
EXAMPLES: list[Document] = [
    presence("b", newest=ref(2)),
    Vote("b-1", 3, "a"),
    round_document("b", base=ref(2), reports={"a": Report(0.5, 1.0, 5)}),
    Evaluation("b-1", "run", 2, "0" * 64, Report(0.5, 1.0, 5)),
    Stop("run", "enough"),
    Start(3),
]


EXAMPLES_SEEN = st.integers(1, 2**40)
LATER_SETTINGS = {
    *("scaffold", "rule", "rule_parameters", "server_optimizer", "server_parameters", "codec", "error_feedback"),
    *("downlink", "privacy", "privacy_clip", "privacy_noise", "privacy_delta"),
}


def metadata_of(made: UpdateOffer | Delta) -> Fields:
    """As they travel beside the tensors."""
    return Fields(json.loads(json.dumps(asdict(made))), "metadata")


@given(document=DOCUMENTS)
def test_what_is_encoded_is_decoded(document: Document) -> None:
    kind = KINDS[type(document)]
    assert decode(kind, encode(document)) == document


@given(
    made=st.builds(
        UpdateOffer,
        *(NAMES, NAMES, TERMS, TERMS, DIGESTS, DIGESTS, EXAMPLES_SEEN, NAMES, SHARES, SHARES),
        steps=EXAMPLES_SEEN,
        base_loss=st.none() | st.floats(0, 1e30),
    )
)
def test_the_metadata_of_an_update_are_read_back(made: UpdateOffer) -> None:
    assert UpdateOffer.read(metadata_of(made)) == made


DELTAS = st.builds(Delta, REFS, DIGESTS, NAMES, NAMES, PARAMETERS)


@given(made=DELTAS)
def test_the_metadata_of_a_delta_are_read_back(made: Delta) -> None:  # D1
    assert Delta.read(metadata_of(made)) == made


@given(made=DELTAS, data=st.data())
def test_a_delta_that_does_not_say_what_it_is_added_to_is_refused(made: Delta, data: st.DataObject) -> None:  # I10
    fields = asdict(made)
    name = data.draw(st.sampled_from(sorted(fields)))
    rest = {key: value for key, value in fields.items() if key != name}
    with pytest.raises(RemoteProtocolError, match=name):
        Delta.read(Fields(rest, "delta"))


def test_settings_of_an_earlier_release_are_those_of_plain_averaging() -> None:
    fields = {name: value for name, value in asdict(RunSettings()).items() if name not in LATER_SETTINGS}
    assert len(fields) == 11
    assert RunSettings.read(Fields(json.loads(json.dumps(fields)), "settings")) == RunSettings(codec="float32")


@pytest.mark.parametrize("document", EXAMPLES, ids=lambda it: type(it).__name__)
def test_unknown_fields_are_ignored(document: Document) -> None:
    fields = {**json.loads(encode(document)), "tomorrow": {"a": [1]}}
    assert decode(KINDS[type(document)], json.dumps(fields).encode()) == document


@pytest.mark.parametrize("document", EXAMPLES, ids=lambda it: type(it).__name__)
def test_a_document_without_one_of_its_fields_is_refused(document: Document) -> None:
    fields = json.loads(encode(document))
    optional = {"newest", "needs", "run_id", "base", "wanted", "wanted_from", "accuracy", "int8_accuracy", "epsilon"}
    optional |= {"strained", "health"}
    for name in set(fields) - optional:
        rest = {key: value for key, value in fields.items() if key != name}
        with pytest.raises(RemoteProtocolError, match=name):
            decode(KINDS[type(document)], json.dumps(rest).encode())


@given(data=st.data(), document=DOCUMENTS)
def test_a_document_with_any_value_anywhere_is_read_or_refused(data: st.DataObject, document: Document) -> None:  # I10
    fields: Any = json.loads(encode(document))
    name = data.draw(st.sampled_from(sorted(fields)))
    fields[name] = data.draw(
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()) | st.just({})
    )
    try:
        read = decode(KINDS[type(document)], json.dumps(fields).encode())
    except RemoteProtocolError:
        return
    assert decode(KINDS[type(document)], encode(read)) == read


@given(payload=st.binary(max_size=200), kind=st.sampled_from(sorted(DECODERS)))
def test_garbage_is_refused(payload: bytes, kind: str) -> None:  # I10
    with pytest.raises(RemoteProtocolError):
        decode(kind, payload)


@pytest.mark.parametrize(
    "changes",
    [
        {"base": None},
        {"run_id": None},
        {"run_id": "another"},
        {"run_number": 2},
        {"round": 2},
        {"round": 4},
        {"state": "finished"},
    ],
    ids=str,
)
def test_a_round_document_whose_fields_contradict_each_other_is_refused(changes: dict[str, Any]) -> None:
    document = replace(round_document("b", base=ref(2)), **changes)
    with pytest.raises(RemoteProtocolError):
        decode("round", encode(document))


def test_later_models_compare_higher() -> None:
    models = [ref(0), ref(1), ref(1, term=2), ref(2), ref(0, run_id="runs"), ref(0, number=2)]
    assert sorted(models, key=lambda it: it.order) == models
