"""The tables in the documents that say what the code says: `make docs` writes them anew.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the tests fail when one is not what this makes.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aggregator_core.rules import RULES
from aggregator_core.server_optimizers import OPTIMIZERS
from edge_peer.config import CHOICES, RANGES, SECTIONS
from edge_peer.operator.live.view import DOING, SCHEMA, BoardView, RunView, View
from edge_peer.shell.class_counts import COLUMNS as CLASS_COLUMNS
from edge_peer.shell.history import COLUMNS
from edge_peer.shell.metrics import METRICS

DOCS = Path(__file__).resolve().parent
BLOCK = re.compile(r"(<!-- table: ([a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def csv_columns() -> str:
    """Columns of a peer's CSV."""
    return _table(("column", "what it is"), [(f"`{name}`", text) for name, text in COLUMNS.items()])


def class_columns() -> str:
    """Columns of `classes/<peer>.csv`."""
    return _table(("column", "what it is"), [(f"`{name}`", text) for name, text in CLASS_COLUMNS.items()])


def configuration() -> str:
    """Sections and keys of a board's TOML file."""
    parts = []
    for name, section in SECTIONS.items():
        described = attributes(section)
        rows = []
        for item in dataclasses.fields(section):
            if item.name not in described:
                raise KeyError(f"{section.__name__}.{item.name} is not described in its docstring")
            rows.append((f"`{item.name}`", _default(item), _values(f"{name}.{item.name}"), described[item.name]))
        parts.append(f"### `[{name}]`\n\n" + _table(("key", "default", "values", "what it is"), rows))
    return "\n".join(parts)


def attributes(kind: type[Any]) -> dict[str, str]:
    """What a class's docstring says under `Attributes:`."""
    # Cleaned, because Python 3.13 stores docstrings without their indentation and earlier ones with it.
    text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        entry = re.match(r" {4}(\w+): (.*)", line)
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif name and line.startswith(" " * 8):
            found[name] += " " + line.strip()
        elif line.strip():
            break
    return found


def _default(item: dataclasses.Field[Any]) -> str:
    if item.default_factory is dict:
        return "`{}`"
    if item.default is dataclasses.MISSING:
        return "required"
    if item.default is None:
        return "none"
    return f"`{str(item.default).lower() if isinstance(item.default, bool) else item.default}`"


def _values(where: str) -> str:
    if where in RANGES:
        return "{:g} to {:g}".format(*RANGES[where])
    return ", ".join(sorted(CHOICES.get(where, ())))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def rules() -> str:
    """Aggregation rules, what they bear, and their parameters."""
    rows = []
    for name, kind in RULES.items():
        rule = kind()
        bears = ", ".join(str(rule.tolerates(n)) for n in (4, 8, 16))
        rows.append((f"`{name}`", first_sentence(kind), bears, _parameters(kind)))
    return _table(("rule", "what it is", "bad ones borne of 4, 8, 16", "parameters"), rows)


def server_optimizers() -> str:
    """Server optimizers and their parameters."""
    rows = [(f"`{name}`", first_sentence(kind), _parameters(kind)) for name, kind in OPTIMIZERS.items()]
    return _table(("optimizer", "what it is", "parameters"), rows)


def first_sentence(kind: type[Any]) -> str:
    """Of a class's docstring."""
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _parameters(kind: Any) -> str:
    default = kind()
    # What `byzantine` is stands above the table, once.
    return "; ".join(
        f"`{it.name}` = {str(getattr(default, it.name)).lower()}" + (f": {it.text}" if it.name != "byzantine" else "")
        for it in kind.parameters
    )


def metrics() -> str:
    """What stands in the file of `[metrics] textfile`."""
    rows = [
        (f"`{name}`", kind, what + (f" Label: {', '.join(f'`{it}`' for it in labels)}." if labels else ""))
        for name, (kind, what, labels) in METRICS.items()
    ]
    return _table(("metric", "type", "what it is"), rows)


def status_view() -> str:
    """Fields of `edge-peer status --json`."""
    rows = [("`schema`", f"{SCHEMA}; grows when a field goes or means something else, not when one is added")]
    rows += [(f"`{name}`", text) for name, text in attributes(View).items()]
    return _table(("field", "what it is"), rows)


def status_run() -> str:
    """Fields of its `run`."""
    return _table(("field", "what it is"), [(f"`{name}`", text) for name, text in attributes(RunView).items()])


def status_board() -> str:
    """Fields of each of its `boards`."""
    return _table(("field", "what it is"), [(f"`{name}`", text) for name, text in attributes(BoardView).items()])


def status_doing() -> str:
    """What a board does."""
    return _table(("`doing`", "what it is"), [(f"`{name}`", text) for name, text in DOING.items()])


TABLES: dict[str, Callable[[], str]] = {
    "csv_columns": csv_columns,
    "class_columns": class_columns,
    "configuration": configuration,
    "metrics": metrics,
    "status_view": status_view,
    "status_run": status_run,
    "status_board": status_board,
    "status_doing": status_doing,
    "rules": rules,
    "server_optimizers": server_optimizers,
}


def renewed(text: str) -> str:
    """A document with its tables made anew."""
    return BLOCK.sub(lambda it: it[1] + TABLES[it[2]]() + it[3], text)


def main() -> None:
    """Write all documents anew."""
    for path in sorted(DOCS.glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = renewed(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path.name, file=sys.stderr)


if __name__ == "__main__":
    main()
