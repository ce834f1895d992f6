"""The int8 model of a folder of artifacts: the file that the weights are written into, and where."""

from __future__ import annotations

import json

from edge_peer.trainers.artifacts import INT8_RECIPE, INT8_TEMPLATE, ModelArtifacts, ModelError
from edge_peer.trainers.int8 import Int8Recipe, write_int8
from edge_peer.trainers.interface import F32


def load_int8(artifacts: ModelArtifacts) -> tuple[bytes, Int8Recipe] | None:
    """The template and its recipe; None if the model is not quantized.

    Raises:
        ResourceError: A file is missing or damaged, or the recipe does not fit.
    """
    if INT8_TEMPLATE not in artifacts.files:
        return None
    template = artifacts.read(INT8_TEMPLATE)
    try:
        value = json.loads(artifacts.read(INT8_RECIPE))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{artifacts.folder / INT8_RECIPE}: is not JSON ({error}); make the artifacts with `make model`"
        ) from None
    return template, Int8Recipe.from_json(value, artifacts.layout, len(template))


def int8_model(artifacts: ModelArtifacts, weights: F32) -> bytes | None:
    """A TFLite file of these weights that computes with integers alone; None if the model is not quantized.

    Args:
        artifacts: The exported model.
        weights: Shape (p,), float32.

    Raises:
        NotQuantizableError: The weights have no int8 form, such as those that nobody has trained yet.
        ResourceError: See `load_int8`.
    """
    loaded = load_int8(artifacts)
    return None if loaded is None else write_int8(*loaded, weights)
