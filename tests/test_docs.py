"""What the documents say is so: tables are those of the code, links lead somewhere, and commands exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_shards.__main__ import parser as data_shards_parser
from data_shards.build import build
from data_shards.datasets import load_dataset
from data_shards.errors import DataError
from docs.tables import BLOCK, renewed
from edge_peer.__main__ import parser as edge_peer_parser
from edge_peer.config import load_config
from edge_peer.errors import ResourceError
from edge_peer.shell.resources import load_resources

ROOT = Path(__file__).parent.parent
OWN_MODEL = ROOT / "docs/bring-your-own-model.md"
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
            headings = [line for line in there.read_text().splitlines() if line.startswith("#")]
            # As GitHub makes them: without punctuation.
            anchors = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in headings}
            assert anchor[1:] in anchors, f"{path.name}: {target}{anchor}"


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


def python_files(path: Path) -> dict[str, str]:
    """Python files that a document gives, each below its name."""
    return dict(re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_are_ones_that_there_are(command: str) -> None:
    words = shlex.split(command)
    if words[0] == ".venv/bin/edge-peer":
        words[0] = "edge-peer"
    if words[0] == "make":
        help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for word in words[1:]:
            name, equals, _ = word.partition("=")
            known = rf"^ +{name} " if equals else rf"^  make {name} "
            assert re.search(known, help_text, re.MULTILINE), f"make help does not list {name}"
    elif words[0] == "edge-peer":
        # A mere name, such as `edge-peer stop`, stands for the command with whatever it needs.
        needs = {"predict": ["RUN", "FILE"], "audit": ["RUN"]}.get(words[1], ["--config", "FILE"])
        edge_peer_parser().parse_args(words[1:] if len(words) > 2 else [words[1], *needs])
    elif words[:3] == ["python", "-m", "data_shards"]:
        if "--help" not in words:
            data_shards_parser().parse_args(words[3:])
    elif words[0] == "mkdir":
        assert (ROOT / words[words.index("cp") + 1]).is_file()
    elif words[0] == ".venv-models/bin/python":
        assert len(words) == 2
        assert words[1] in python_files(OWN_MODEL)
    else:
        raise AssertionError(f"nothing checks {command!r}: put it into words, or add a check")


# ---------------------------------------------------------------------- a model of one's own


def carried_out(command: str, folder: Path) -> str:
    """What a command of the document says when it is run in a folder instead of the project's."""
    words = shlex.split(command)
    main = str(ROOT / ".venv/bin/python")
    if words[0] == "make":
        # Within another make it would say which folder it enters and leaves.
        plan = ["make", "-n", "--no-print-directory", *words[1:]]
        said = subprocess.run(plan, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        words = shlex.split(said.splitlines()[-1])
        words[0] = {".venv/bin/python": main, ".venv-models/bin/python": sys.executable}[words[0]]
        # Both have a place in the project for it.
        if "models.export" in words:
            words += ["--out", "models/artifacts/signs"]
        else:
            words[words.index("--model") + 1] = "models/artifacts/signs"
    elif words[0] == ".venv/bin/edge-peer":
        words = [main, "-m", "edge_peer", *words[1:]]
    else:
        assert words[0] == ".venv-models/bin/python"
        words[0] = sys.executable
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def without_numbers(text: str) -> list[str]:
    """Lines in which only the words count."""
    text = re.sub(r"\b[0-9a-f]{12}\b|peer\d|\d+(\.\d+)?", "N", text)
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.mark.tensorflow
def test_from_an_empty_file_to_a_federation(tmp_path: Path) -> None:
    for name, content in python_files(OWN_MODEL).items():
        (tmp_path / name).write_text(content)
    commands = blocks(OWN_MODEL, "sh")[0].splitlines()
    assert [it.split()[0] for it in commands] == ["make", ".venv-models/bin/python", "make", ".venv/bin/edge-peer"]
    said = "\n".join(carried_out(it, tmp_path) for it in commands)
    for shown in blocks(OWN_MODEL, "text"):
        assert set(without_numbers(shown)) <= set(without_numbers(said))
    parameters = re.compile(r"\d+ parameters")
    assert parameters.findall(said) == parameters.findall(OWN_MODEL.read_text())
    accuracy = re.search(r"^accuracy (\S+), int8 (\S+),", said, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.9
    assert abs(float(accuracy[1]) - float(accuracy[2])) < 0.03
    labels = read_labels_of_new(tmp_path)
    predicted = [int(line.split()[2]) for line in said.splitlines() if line.startswith("new.npy")]
    assert len(predicted) == len(labels)
    assert sum(a == b for a, b in zip(predicted, labels, strict=True)) >= len(labels) - 1
    assert {path.name for path in (tmp_path / "runs/latest").iterdir()} >= {"model.safetensors", "model.int8.tflite"}


def read_labels_of_new(folder: Path) -> list[int]:
    """The labels that the data's script has drawn for new.npy, which it does not save."""
    names: dict[str, Any] = {}
    code = python_files(OWN_MODEL)["signs_data.py"].replace('"signs.npz"', f'"{folder}/again.npz"')
    exec(code.replace('"new.npy"', f'"{folder}/again.npy"'), names)
    assert (folder / "again.npy").read_bytes() == (folder / "new.npy").read_bytes()
    labels: list[int] = names["y"][-5:].tolist()
    return labels


@pytest.mark.tensorflow
def test_the_document_names_what_the_exporter_takes() -> None:
    import keras

    from models.checks import REMEDY as LAYERS
    from models.training.losses import REMEDY as LOSSES
    from models.training.optimizers import REMEDY as OPTIMIZERS

    (text,) = re.findall(r"<!-- names: layers -->\n(.*?)<!-- end -->", OWN_MODEL.read_text(), re.DOTALL)
    named = set(re.findall(r"\w+", text))
    for remedy in (LAYERS, LOSSES, OPTIMIZERS):
        # The sentence's names: camel case, words with an underscore, and the short ones.
        wanted = set(re.findall(r"\b[A-Z]\w*[A-Za-z0-9]\b|\b[a-z]+_[a-z_0-9]+\b|\brelu6?\b|\belu\b", remedy))
        wanted -= {"from_logits", "True", "keras"}
        missing = {it for it in wanted if not {it, f"{it}1D", f"{it}2D"} & named}
        assert not missing, f"docs/bring-your-own-model.md does not name {sorted(missing)}"
    tested = "".join(path.read_text() for path in (ROOT / "tests").glob("test_models*.py"))
    layers = text[text.index("Layers:") : text.index("- Activations")]
    for name in re.findall(r"\b[A-Z]\w+", layers.partition(":")[2]):
        assert hasattr(keras.layers, name), f"Keras has no layer {name}"
        assert re.search(rf"\b{name}\b", tested), f"no test trains {name}"


#: A model that is refused so: its layers, what it is compiled with, and constants of its file.
REFUSED: dict[str, tuple[str, str, str]] = {
    "ends the model with a softmax; boards take logits": ("L.Dense(3, 'softmax')", "", ""),
    "is of probabilities, boards take logits": ("L.Dense(3)", "loss='sparse_categorical_crossentropy'", ""),
    "boards need every dimension; write it out": ("L.GlobalMaxPooling1D(), L.Dense(3)", "", "SHAPE = (None, 2)"),
    "end with Dense(CLASSES)": ("L.Dense(4)", "", ""),
    "has a kernel_regularizer, which boards do not apply": ("L.Dense(3, kernel_regularizer='l2')", "", ""),
    "draws random numbers": ("L.GaussianNoise(0.1), L.Dense(3)", "", ""),
    "cannot be trained on a board": ("L.Dense(3, 'softplus'), L.Dense(3)", "", ""),
    "is not one that boards have": ("L.Dense(3)", "optimizer='rmsprop', loss=LOSS", ""),
    "has a schedule for a learning rate": (
        "L.Dense(3)",
        "optimizer=keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 100)), loss=LOSS",
        "",
    ),
    "has no int8 form": ("L.LayerNormalization(), L.Dense(3)", "", "QAT = 'full'"),
    "BatchNormalization is not directly behind a linear layer": (
        "L.Dense(4, 'relu'), L.BatchNormalization(), L.Dense(3)",
        "",
        "QAT = 'full'",
    ),
}


def refusals() -> list[str]:
    """The messages in the document's last table."""
    return re.findall(r"^\| `([^`]+)` \|", OWN_MODEL.read_text().partition("## What is refused")[2], re.MULTILINE)


def test_what_the_document_calls_refused_is_tried() -> None:
    assert set(refusals()) == set(REFUSED) | {"not uint8; scaling belongs into the model's graph", "do not fit model"}


@pytest.mark.tensorflow
@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_is_refused_in_these_words(tmp_path: Path, message: str) -> None:
    from models.export import ExportError, export

    layers, compiled, constants = REFUSED[message]
    path = tmp_path / "own.py"
    path.write_text(
        "import keras\nfrom keras import layers as L\nBATCH = EVALUATION_BATCH = 4\nCLASSES = 3\nSHAPE = (5,)\n"
        f"LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)\n{constants}\ndef build():\n"
        f"    model = keras.Sequential([keras.Input(SHAPE), L.Rescaling(1 / 255), {layers}])\n"
        f"    {f'model.compile({compiled})' if compiled else 'pass'}\n    return model\n"
    )
    with pytest.raises(ExportError, match=re.escape(message)):
        export(path, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_data_that_does_not_fit_is_refused_in_these_words(tmp_path: Path) -> None:
    """What an .npz of rows (steps, channels) becomes, and what a float one is told."""
    x, y = np.zeros((40, 64, 3)), np.arange(40) % 3
    np.savez(tmp_path / "own.npz", x=x, y=y)
    with pytest.raises(DataError, match="not uint8; scaling belongs into the model's graph"):
        load_dataset(str(tmp_path / "own.npz"))
    np.savez(tmp_path / "own.npz", x=x.astype(np.uint8), y=y)
    build(load_dataset(str(tmp_path / "own.npz")), ["a"], "iid", 1, tmp_path / "shards")
    path = tmp_path / "config.toml"
    path.write_text(
        f'[peer]\nname = "a"\nstate_dir = "state"\n[model]\nartifacts = "{ROOT}/models/artifacts/image_cnn"\n'
        '[shard]\npath = "shards/a.safetensors"\n'
    )
    with pytest.raises(ResourceError, match=r"examples of shape \[64, 3, 1\] .* do not fit model"):
        load_resources(load_config(path))
