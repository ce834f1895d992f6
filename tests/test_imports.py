"""Who may import whom: the arrows of the architecture point one way."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: What is installed or deployed; `bench` measures with the harness of the live tests.
PACKAGES = ("aggregator_core", "data_shards", "edge_peer", "models", "docs", "ansible")
STANDARD = frozenset(sys.stdlib_module_names)
HEAVY = frozenset({"tensorflow", "keras", "matplotlib", "rich"})
#: The world, which the protocol must not touch: it could not be simulated.
WORLD = frozenset(
    {"socket", "ssl", "time", "threading", "asyncio", "os", "io", "pathlib", "subprocess", "secrets", "queue"}
)


@dataclass(frozen=True)
class Import:
    """One import: what, where, and whether it is run when the module is loaded."""

    path: Path
    line: int
    name: str
    at_load: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.name}"


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> list[Import]:
    found = []

    def visit(node: ast.AST, at_load: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(path, node.lineno, alias.name, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found.extend(Import(path, node.lineno, f"{node.module}.{alias.name}", at_load) for alias in node.names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, at_load and not inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def others(folder: str, allowed: frozenset[str]) -> list[str]:
    """Imports of a folder that are neither the standard library nor allowed, by module or package."""
    return [
        str(it)
        for path in files(folder)
        for it in imports(path)
        if it.top not in STANDARD and not any(it.name == name or it.name.startswith(f"{name}.") for name in allowed)
    ]


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("edge_peer/protocol", {"edge_peer.protocol", "edge_peer.errors"}),
        ("aggregator_core", {"aggregator_core", "numpy"}),
        ("data_shards", {"data_shards", "numpy", "safetensors", "matplotlib"}),
        (
            "edge_peer/shell",
            {"edge_peer", "aggregator_core", "data_shards", "numpy", "paho", "safetensors"},
        ),
        (
            "edge_peer/trainers",
            {
                "edge_peer",
                "aggregator_core",
                "data_shards",
                "numpy",
                "safetensors",
                "ai_edge_litert",
                "tflite_runtime",
                "keras",
                "tensorflow",
            },
        ),
    ],
)
def test_a_folder_imports_only_what_it_may(folder: str, allowed: set[str]) -> None:
    assert len(files(folder)) >= 4
    assert others(folder, frozenset(allowed)) == []


def test_the_protocol_touches_no_world() -> None:
    found = [str(it) for path in files("edge_peer/protocol") for it in imports(path) if it.top in WORLD]
    assert found == []


def test_the_protocol_draws_only_from_the_source_that_it_is_given() -> None:
    drawn = []
    for path in files("edge_peer/protocol"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
                drawn.append((path.name, node.attr))
            if isinstance(node, ast.ImportFrom):
                assert node.module != "random"
    assert {name for _, name in drawn} == {"Random"}, (
        "only the type may be named; whoever drives the core passes one in"
    )


def test_nothing_imports_the_tests() -> None:
    found = [str(it) for folder in PACKAGES for path in files(folder) for it in imports(path) if it.top == "tests"]
    assert found == []


def test_nothing_that_it_stands_on_imports_the_daemon() -> None:
    found = [
        str(it)
        for folder in ("aggregator_core", "data_shards")
        for path in files(folder)
        for it in imports(path)
        if it.top == "edge_peer"
    ]
    assert found == []


def test_a_board_never_loads_what_only_a_workstation_has() -> None:
    found = [
        str(it)
        for folder in ("edge_peer/protocol", "edge_peer/shell", "edge_peer/trainers", "aggregator_core")
        for path in files(folder)
        for it in imports(path)
        if it.top in HEAVY and path.relative_to(ROOT).as_posix() != "edge_peer/trainers/keras.py"
    ]
    assert found == []


def test_pictures_are_imported_where_they_are_drawn() -> None:
    found = [str(it) for path in files("data_shards") for it in imports(path) if it.top == "matplotlib" and it.at_load]
    assert found == []


def test_the_daemon_imports_no_operator() -> None:
    found = [
        str(it)
        for folder in ("edge_peer/protocol", "edge_peer/shell", "edge_peer/trainers")
        for path in files(folder)
        for it in imports(path)
        if it.name.startswith("edge_peer.operator")
    ]
    assert found == []


def test_forbidden_imports_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "bad.py").write_text(
        "import math\nimport numpy as np\nfrom time import time\n\ndef draw():\n    import matplotlib.pyplot\n"
    )
    assert others("core", frozenset()) == [
        "core/bad.py:2 imports numpy",
        "core/bad.py:6 imports matplotlib.pyplot",
    ]
    assert others("core", frozenset({"numpy", "matplotlib"})) == []
    loads = {it.name: it.at_load for it in imports(tmp_path / "core" / "bad.py")}
    assert loads == {"math": True, "numpy": True, "time.time": True, "matplotlib.pyplot": False}
