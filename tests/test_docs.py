"""What the documents say is so: tables are those of the code, links lead somewhere, and commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from data_shards.__main__ import parser as data_shards_parser
from docs.tables import BLOCK, renewed
from edge_peer.__main__ import parser as edge_peer_parser
from edge_peer.config import load_config

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(#[^)]*)?\)")


def blocks(path: Path, language: str) -> list[str]:
    """Fenced code of a language, without its indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", path.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def test_tables_are_those_of_the_code() -> None:
    found = []
    for path in DOCUMENTS:
        text = path.read_text()
        found += [it[2] for it in BLOCK.finditer(text)]
        if path.parent.name == "docs":
            assert renewed(text) == text, f"{path.name} is out of date: make docs"
    assert {"csv_columns", "configuration"} <= set(found)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text()):
        there = path.parent / target if target else path
        assert there.exists(), f"{path.name}: {target}"
        if anchor:
            headings = [line.lstrip("# ").lower().replace(" ", "-") for line in there.read_text().splitlines()]
            assert anchor[1:] in headings, f"{path.name}: {target}{anchor}"


def test_the_configuration_in_the_document_is_one(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "docs/configuration.md", "toml")
    path = tmp_path / "config.toml"
    path.write_text(code)
    config = load_config(path)
    assert config.federation.roster == ("kitchen", "garage", "roof")


def commands() -> list[str]:
    found = []
    for path in DOCUMENTS:
        found += [line for block in blocks(path, "sh") for line in block.splitlines() if line]
        found += re.findall(r"`((?:make|edge-peer|python -m data_shards) [^`]*)`", path.read_text())
    return found


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_are_ones_that_there_are(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for word in words[1:]:
            name, equals, _ = word.partition("=")
            known = rf"^ +{name} " if equals else rf"^  make {name} "
            assert re.search(known, help_text, re.MULTILINE), f"make help does not list {name}"
    elif words[0] == "edge-peer":
        # A mere name, such as `edge-peer stop`, stands for the command with whatever it needs.
        edge_peer_parser().parse_args(words[1:] if len(words) > 2 else [words[1], "--config", "FILE"])
    elif words[:3] == ["python", "-m", "data_shards"]:
        if "--help" not in words:
            data_shards_parser().parse_args(words[3:])
    else:
        raise AssertionError(f"nothing checks {command!r}: put it into words, or add a check")
