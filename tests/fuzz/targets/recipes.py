"""Where in an int8 template a board writes: JSON, of the small model of tests/int8_example.py."""

from __future__ import annotations

import json

from edge_peer.trainers.int8 import NotQuantizableError, write_int8
from edge_peer.trainers.int8_recipe import Int8Recipe, RecipeError
from tests import int8_example
from tests.fuzz.checks import assert_clean
from tests.fuzz.mutators import json_mutator
from tests.fuzz.target import Target

TEMPLATE, RECIPE, _ = int8_example.load()
LAYOUT = RECIPE.layout
WEIGHTS = int8_example.weights(LAYOUT)


def run(data: bytes) -> str:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return "no JSON"
    try:
        recipe = Int8Recipe.from_json(value, LAYOUT, len(TEMPLATE))
    except RecipeError as error:
        assert_clean(str(error))
        return "refused"
    assert Int8Recipe.from_json(json.loads(json.dumps(recipe.to_json())), LAYOUT, len(TEMPLATE)) == recipe
    try:
        written = write_int8(TEMPLATE, recipe, WEIGHTS)
    except NotQuantizableError as error:
        assert_clean(str(error))
        return "not quantizable"
    assert len(written) == len(TEMPLATE)
    allowed = _allowed(recipe)
    assert all(a == b or place in allowed for place, (a, b) in enumerate(zip(TEMPLATE, written, strict=True)))
    return "written"


def _allowed(recipe: Int8Recipe) -> set[int]:
    """Every byte that the recipe names."""
    sizes = {it.name: it.size for it in recipe.layout.tensors}
    places: set[int] = set()
    for point in recipe.points:
        for offsets, size in ((point.scales, 4), (point.zero_points, 8)):
            places.update(place for offset in offsets for place in range(offset, offset + size))
    for kernel in recipe.kernels:
        places.update(range(kernel.data, kernel.data + sizes[kernel.kernel]))
        for offset in (kernel.scales, kernel.bias_data, kernel.bias_scales):
            places.update(range(offset, offset + 4 * kernel.channels))
    return places


TARGET = Target(
    run,
    frozenset({"no JSON", "refused", "written", "not quantizable"}),
    ("edge_peer.trainers.int8_recipe", "edge_peer.trainers.int8"),
    length_max=4096,
    mutate=json_mutator,
    words=tuple(f'"{name}":'.encode() for name in ("points", "kernels", "limits", "range", "normalization", "data")),
)
