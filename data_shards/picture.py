"""A picture of who holds what: one row a peer, one column a class, the darker the more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np


def draw(manifest: dict[str, Any], path: Path) -> None:
    """Draw a manifest's training examples per peer and class into a PNG file; needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - boards have no matplotlib
    from matplotlib.figure import Figure  # noqa: PLC0415

    peers = manifest["peers"]
    counts = np.array([entry["train_classes"] for entry in peers.values()])
    rows, columns = counts.shape
    figure = Figure(figsize=(max(6.0, 0.62 * columns + 2.6), max(2.6, 0.3 * rows + 1.7)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(counts, cmap="cividis_r", aspect="auto", vmin=0)
    axes.set_xticks(range(columns))
    axes.set_yticks(range(rows), [f"{peer} ({entry['train']:,})" for peer, entry in peers.items()])
    axes.set_xlabel("class")
    axes.set_ylabel("peer (training examples)")
    axes.set_title(f"{manifest['dataset']}, {manifest['scheme']}, seed {manifest['seed']}")
    if rows * columns <= 400:
        middle = counts.max() / 2
        for row in range(rows):
            for column in range(columns):
                colour = "white" if counts[row, column] > middle else "black"
                axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="training examples")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.png")
    figure.savefig(temporary, dpi=120)
    temporary.replace(path)
