"""docs/privacy.md says what Python says; `python -m tests.test_aggregator_privacy_document` writes it anew."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import re
from pathlib import Path
from typing import Any

from aggregator_core.privacy import STATE_CLIP, STATE_SHARE, Privacy

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "privacy.md"
RESULTS = ROOT / "bench" / "results" / "privacy.json"
MEASURED = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)
BLOCK = re.compile(r"(?<=^```python\n)(?=>>> ).*?(?=^```$)", re.DOTALL | re.MULTILINE)


def renewed(text: str) -> str:
    """The document with what its statements print now."""
    names: dict[str, Any] = {}

    def said(block: re.Match[str]) -> str:
        lines = []
        for example in doctest.DocTestParser().get_examples(block[0]):
            first, *rest = example.source.splitlines()
            lines += [f">>> {first}", *(f"... {line}" for line in rest)]
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(example.source, str(DOCUMENT), "single"), names)
            lines += output.getvalue().splitlines()
        return "\n".join(lines) + "\n"

    return BLOCK.sub(said, text)


def measured() -> str:
    """What the benchmark has found on this machine, as a table."""
    rows = json.loads(RESULTS.read_text())["rows"]
    columns = ("boards", "privacy", "noise", "epsilon", "accuracy", "int8")
    lines = [columns, ("---",) * len(columns), *([str(row[it]) for it in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def test_what_python_prints_is_what_it_prints() -> None:
    text = DOCUMENT.read_text()
    assert len(BLOCK.findall(text)) == 2
    assert renewed(text) == text, "docs/privacy.md is out of date: python -m tests.test_aggregator_privacy_document"


def test_what_is_said_of_the_state_is_so() -> None:
    plain = Privacy("central", 1.0, 1.0).deviations()[0]
    trained, state = Privacy("central", 1.0, 1.0).deviations(state=True)
    assert (STATE_CLIP, STATE_SHARE) == (10, 0.1)
    assert round(100 * (trained / plain - 1)) == 5
    assert round(state / trained) == 30


def main() -> None:
    """Write the document anew; its measurements, if there are any here."""
    text = renewed(DOCUMENT.read_text())
    if RESULTS.exists():
        text = MEASURED.sub(lambda it: it[1] + measured() + it[2], text)
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
