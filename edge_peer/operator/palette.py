"""How a run's peers look in its pictures and in its report: each the same everywhere."""

from __future__ import annotations

#: Safe for colour-blind readers. Source: Okabe and Ito, "Color Universal Design", 2008.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
#: The same on a dark ground, where black and dark blue cannot be seen.
COLOURS_DARK = ("#4DA3DB", "#F0803C", "#2FC79B", "#DE9CC0", "#F0B429", "#8CCDF2", "#F2F2F2", "#C4A24E")
#: Shapes in matplotlib's letters: colours come round, and then a peer still differs from another by its shape.
MARKERS = "os^Dvphx"
#: With more peers, lines of single ones say nothing: percentile bands do.
LINES_MAX = 12
PERCENTILES = (5, 25, 50, 75, 95)


def colour_of(index: int) -> int:
    """Which colour the peer at this place in the sorted names has."""
    return index % len(COLOURS)


def marker_of(index: int) -> str:
    """Its marker."""
    return MARKERS[(index // len(COLOURS) + index) % len(MARKERS)]
