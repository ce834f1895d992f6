"""An int8 model written on a board, with numpy and whichever TFLite interpreter this environment has."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import int8_example
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator_core.layout import Layout, LayoutError
from edge_peer.trainers import int8
from edge_peer.trainers.int8 import (
    Int8Recipe,
    Int8Scorer,
    NotQuantizableError,
    RecipeError,
    activation_parameters,
    kernel_parameters,
    write_int8,
)
from edge_peer.trainers.interface import Cancelled
from edge_peer.trainers.litert import load_runtime

TEMPLATE, RECIPE, CONVERTED_SHA256 = int8_example.load()
LAYOUT = RECIPE.layout
VECTOR = int8_example.weights(LAYOUT)
SHAPE = int8_example.SHAPE
COUNT = 50
X = np.random.default_rng(0).integers(0, 256, (COUNT, *SHAPE)).astype(np.uint8)


def never() -> bool:
    return False


def changed(**tensors: Any) -> Any:
    """The weights with other values of some tensors, by the last parts of their names."""
    vector = VECTOR.copy()
    parts = LAYOUT.split(vector)
    for name, value in tensors.items():
        (path,) = [it for it in parts if it.endswith(name.replace("__", "/"))]
        parts[path][...] = value
    return vector


# ---------------------------------------------------------------------- numbers, against slow references


def slow_round(value: Fraction) -> int:
    """To the nearest whole number, halves away from zero."""
    whole = math.floor(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole


@given(st.floats(-100, 0, width=32), st.floats(0, 100, width=32))
def test_activations_have_a_zero_and_reach_both_ends(low: float, high: float) -> None:
    if high - low < int8.RANGE_MIN:
        return
    scale, zero = activation_parameters(low, high)
    assert -128 <= zero <= 127
    assert scale == (high - low) / 255
    # Both ends move by half a scale at most.
    assert abs((-128 - zero) * scale - low) <= 0.5000001 * scale
    assert abs((127 - zero) * scale - high) <= 0.5000001 * scale


@pytest.mark.parametrize(
    ("low", "high", "zero"), [(0, 1, -128), (-1, 0, 127), (-1, 1, 0), (-1, 127 / 128, 0), (-0.5, 254.5, -127)]
)
def test_zero_points_are_tensorflows(low: float, high: float, zero: int) -> None:
    """With a half rounded as in `tf.quantization.fake_quant_with_min_max_vars`, which counts from 0."""
    assert activation_parameters(low, high)[1] == zero


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 4]), st.floats(1e-6, 100))
def test_kernels_are_rounded_as_exact_arithmetic_rounds_them(seed: int, weight_bits: int, input_scale: float) -> None:
    rng = np.random.default_rng(seed)
    kernel = (rng.normal(0, 1, (7, 3)) * 10.0 ** rng.integers(-6, 3)).astype(np.float32).astype(np.float64)
    bias = rng.normal(0, 1, 3).astype(np.float32).astype(np.float64) * np.abs(kernel).max()
    values, scales, biases, bias_scales = kernel_parameters(kernel, bias, input_scale, weight_bits)
    largest = 2 ** (weight_bits - 1) - 1
    assert values.dtype == np.int8
    assert biases.dtype == np.int32
    for channel in range(3):
        scale = Fraction(float(scales[channel]))
        assert scales[channel] == pytest.approx(np.abs(kernel[:, channel]).max() / largest, rel=1e-15)
        assert np.abs(values[:, channel]).max() == largest
        for tap in range(7):
            exact = Fraction(float(kernel[tap, channel])) / scale
            # A quotient that is within rounding of a half may be taken for one.
            if abs(abs(exact) % 1 - Fraction(1, 2)) > Fraction(1, 10**12):
                assert values[tap, channel] == slow_round(exact)
        assert bias_scales[channel] == scales[channel] * input_scale
        exact = Fraction(float(bias[channel])) / Fraction(float(bias_scales[channel]))
        if abs(abs(exact) % 1 - Fraction(1, 2)) > Fraction(1, 10**6):
            assert biases[channel] == slow_round(exact)


def test_halves_are_rounded_away_from_zero() -> None:
    kernel = np.array([[127, -127], [0.5, -0.5], [1.5, -1.5], [2.5, -2.5]])
    values, scales, biases, _ = kernel_parameters(kernel, np.array([2.5, -2.5]), 1.0, 8)
    assert values.tolist() == [[127, -127], [1, -1], [2, -2], [3, -3]]
    assert scales.tolist() == [1, 1]
    assert biases.tolist() == [3, -3]


def test_a_channel_that_has_died_keeps_its_bias() -> None:
    kernel = np.array([[0.0, 1e-30, 1.0], [0.0, 0.0, -1.0]])
    bias = np.array([3.0, -2.0, 0.5])
    values, scales, biases, bias_scales = kernel_parameters(kernel, bias, 0.01, 8)
    assert (scales > 0).all()
    assert values[:, :2].tolist() == [[0, 0], [0, 0]]
    np.testing.assert_allclose(biases * bias_scales, bias, rtol=1e-6)
    assert np.abs(biases).max() <= int8.BIAS_MAX
    zeros = kernel_parameters(np.zeros((2, 1)), np.zeros(1), 0.01, 8)
    assert zeros[0].tolist() == [[0], [0]]
    assert zeros[1] == int8.KERNEL_SCALE_MIN
    assert zeros[2].tolist() == [0]


# ---------------------------------------------------------------------- the file


def test_the_written_file_is_the_one_that_tensorflow_has_converted() -> None:
    written = write_int8(TEMPLATE, RECIPE, VECTOR)
    assert hashlib.sha256(written).hexdigest() == CONVERTED_SHA256
    assert len(written) == len(TEMPLATE)
    assert written != TEMPLATE


def test_neither_template_nor_vector_is_changed() -> None:
    template, vector = bytes(TEMPLATE), VECTOR.copy()
    first = write_int8(template, RECIPE, vector)
    assert template == TEMPLATE
    np.testing.assert_array_equal(vector, VECTOR)
    assert write_int8(template, RECIPE, vector) == first
    vector.setflags(write=False)
    assert write_int8(template, RECIPE, vector) == first


def run(content: bytes, x: Any) -> tuple[Any, float]:
    """Logits as real numbers, and their quantum."""
    interpreter = load_runtime()[1].Interpreter(model_content=content, num_threads=1)
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert (entry["dtype"], result["dtype"]) == (np.uint8, np.int8)
    interpreter.resize_tensor_input(entry["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], x)
    interpreter.invoke()
    scale, zero = result["quantization"]
    return (interpreter.get_tensor(result["index"]).astype(np.float64) - zero) * scale, scale


def slow_logits(vector: Any, x: Any) -> Any:
    """The example model in real numbers, tap by tap, with the roundings that int8 makes."""
    parts = {name.removeprefix("example/"): it.astype(np.float64) for name, it in LAYOUT.split(vector).items()}

    def rounded(values: Any, low: float, high: float) -> Any:
        scale, zero = activation_parameters(low, high)
        return (np.clip(np.floor(values / scale + 0.5) + zero, -128, 127) - zero) * scale

    def kernel(values: Any) -> Any:
        scale = np.abs(values).max(axis=tuple(range(values.ndim - 1))) / 127
        return np.round(values / scale) * scale

    scale, zero = activation_parameters(-1, 1)
    images = (x.astype(np.float64) - 128 - zero) * scale
    weights = kernel(parts["conv/kernel"])
    convolved = np.zeros((len(x), 2, 2, 3))
    for row in range(2):
        for column in range(2):
            window = images[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            convolved[:, row, column] = (window[..., None] * weights).sum(axis=(1, 2, 3))
    normal = (convolved - parts["norm/moving_mean"]) / np.sqrt(parts["norm/moving_variance"] + 1e-3)
    normal = normal * parts["norm/gamma"] + parts["norm/beta"]
    hidden = rounded(np.maximum(normal, 0), *parts["relu_range/range"]).reshape(len(x), -1)
    return hidden @ kernel(parts["logits/kernel"]) + parts["logits/bias"]


@pytest.mark.parametrize("seed", range(5))
def test_the_interpreter_computes_the_model_of_the_vector(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vector = VECTOR.copy()
    trained = next(it.offset for it in LAYOUT.tensors if it.kind == "state")
    vector[:trained] += rng.normal(0, 0.2, trained).astype(np.float32)
    found, quantum = run(write_int8(TEMPLATE, RECIPE, vector), X)
    low, high = LAYOUT.split(vector)["logits_range/range"]
    expected = np.clip(slow_logits(vector, X), low - quantum / 2, high + quantum / 2)
    assert expected.std() > 5 * quantum
    assert (np.abs(found - expected) <= 1.01 * quantum).mean() > 0.98
    assert np.abs(found - expected).max() <= 2.01 * quantum


def test_with_four_bits_weights_have_fifteen_values() -> None:
    coarse = replace(RECIPE, weight_bits=4)
    written = np.frombuffer(write_int8(TEMPLATE, coarse, VECTOR), np.int8)
    for kernel in RECIPE.kernels:
        size = next(it.size for it in LAYOUT.tensors if it.name == kernel.kernel)
        values = written[kernel.data : kernel.data + size]
        assert (values.min(), values.max()) == (-7, 7)
    found, quantum = run(written.tobytes(), X)
    expected, _ = run(write_int8(TEMPLATE, RECIPE, VECTOR), X)
    assert 0.5 * quantum < np.abs(found - expected).mean() < 20 * quantum


def test_a_layer_that_gives_zeros_is_no_reason_to_have_no_model() -> None:
    """Its range is as narrow as training leaves it."""
    vector = changed(norm__beta=-50, relu_range__range=[0, int8.RANGE_MIN])
    found, quantum = run(write_int8(TEMPLATE, RECIPE, vector), X)
    bias = LAYOUT.split(vector)["example/logits/bias"]
    assert np.abs(found - bias).max() <= 0.51 * quantum


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"conv__kernel": np.nan}, "conv/kernel holds values that are not finite"),
        ({"logits__bias": np.inf}, "logits/bias holds values that are not finite"),
        ({"logits__kernel": 3e38}, "logits/kernel holds 3e\\+38: train with a smaller learning rate"),
        ({"norm__moving_variance": -1}, "moving_variance is -1, and a variance is not negative"),
        ({"conv__kernel": 3e38, "norm__gamma": 100}, "conv/kernel is not finite with its BatchNormalization"),
        ({"relu_range__range": 0}, "relu_range/range is \\[0, 0\\]: no example has come there yet"),
        ({"relu_range__range": [1, 2]}, "relu_range/range is \\[1, 2\\], which does not hold 0"),
        ({"relu_range__range": [0, -2]}, "relu_range/range is \\[0, -2\\], which does not hold 0"),
        ({"relu_range__range": [0, 1e30]}, "relu_range/range is \\[0, 1e\\+30\\]: train with a smaller"),
    ],
)
def test_weights_without_an_int8_form_say_why(tensors: dict[str, Any], words: str) -> None:
    with pytest.raises(NotQuantizableError, match=words):
        write_int8(TEMPLATE, RECIPE, changed(**tensors))


def test_other_templates_and_vectors_are_refused() -> None:
    with pytest.raises(RecipeError, match="template_bytes"):
        write_int8(TEMPLATE + b"x", RECIPE, VECTOR)
    with pytest.raises(LayoutError, match="vector is"):
        write_int8(TEMPLATE, RECIPE, VECTOR[:-1])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-12, 20))
def test_any_finite_vector_makes_a_file_or_says_why_not(seed: int, exponent: float) -> None:
    rng = np.random.default_rng(seed)
    vector = (rng.normal(0, 1, LAYOUT.size) * 10.0**exponent).astype(np.float32)
    parts = LAYOUT.split(vector)
    for name in ("relu_range/range", "logits_range/range"):
        parts[name].sort()
    parts["example/norm/moving_variance"][...] = np.abs(parts["example/norm/moving_variance"])
    try:
        written = write_int8(TEMPLATE, RECIPE, vector)
    except NotQuantizableError as error:
        assert "train" in str(error)  # noqa: PT017 - both ends are right
        return
    assert len(written) == len(TEMPLATE)
    scales = np.concatenate(
        [
            np.frombuffer(written, "<f4", it.channels, place)
            for it in RECIPE.kernels
            for place in (it.scales, it.bias_scales)
        ]
    )
    assert (scales > 0).all()
    assert np.isfinite(scales).all()


# ---------------------------------------------------------------------- the recipe


def recipe_json() -> dict[str, Any]:
    return json.loads(json.dumps(RECIPE.to_json()))


def test_a_recipe_survives_json() -> None:
    assert Int8Recipe.from_json(recipe_json(), LAYOUT, len(TEMPLATE)) == RECIPE


HUGE = 2**70
HOSTILE: list[tuple[tuple[Any, ...], Any, str]] = [
    ((), [], "recipe"),
    (("format",), 2, "format"),
    (("format",), True, "format"),
    (("template_bytes",), 17, "template_bytes"),
    (("weight_bits",), 7, "weight_bits"),
    (("points",), [], "points"),
    (("points",), {}, "points"),
    (("kernels",), None, "kernels"),
    (("points", 1), 3, r"points\[1\]"),
    (("points", 1, "name"), 3, r"points\[1\].name"),
    (("points", 1, "range"), "nobody", r"points\[1\].range"),
    (("points", 1, "range"), "example/conv/kernel", r"points\[1\].range"),
    (("points", 1, "range"), None, r"points\[1\].range"),
    (("points", 1, "limits"), [0, 1], r"points\[1\].range"),
    (("points", 0, "limits"), [0, "1"], r"points\[0\].limits"),
    (("points", 0, "limits"), [0, math.nan], r"points\[0\].limits"),
    (("points", 0, "limits"), [0, 10**400], r"points\[0\].limits"),
    (("points", 0, "limits"), [1, 2], r"points\[0\].limits"),
    (("points", 0, "limits"), [0, 0], r"points\[0\].limits"),
    (("points", 0, "limits"), [0], r"points\[0\].limits"),
    (("points", 1, "scales"), 3, r"points\[1\].scales"),
    (("points", 1, "scales", 0), -4, r"points\[1\].scales"),
    (("points", 1, "scales", 0), HUGE, r"points\[1\].scales"),
    (("points", 1, "scales", 0), 1.5, r"points\[1\].scales"),
    (("points", 1, "zero_points", 0), len(TEMPLATE) - 7, r"points\[1\].zero_points"),
    (("points", 1, "scales"), [0] * 10_001, r"points\[1\].scales"),
    (("kernels", 0, "kernel"), "nobody", r"kernels\[0\].kernel"),
    (("kernels", 0, "kernel"), 3, r"kernels\[0\].kernel"),
    (("kernels", 0, "channels"), 5, r"kernels\[0\].kernel"),
    (("kernels", 0, "channels"), 0, r"kernels\[0\].channels"),
    (("kernels", 0, "channels_first"), 1, r"kernels\[0\].channels_first"),
    (("kernels", 0, "input"), 3, r"kernels\[0\].input"),
    (("kernels", 0, "input"), -1, r"kernels\[0\].input"),
    (("kernels", 1, "bias"), "example/norm/beta", r"kernels\[1\].bias"),
    (("kernels", 0, "normalization"), 3, r"kernels\[0\].normalization"),
    (("kernels", 0, "normalization", "mean"), None, r"kernels\[0\].normalization.mean"),
    (("kernels", 0, "normalization", "gamma"), "example/logits/bias", r"kernels\[0\].normalization.gamma"),
    (("kernels", 0, "normalization", "epsilon"), "0", r"kernels\[0\].normalization.epsilon"),
    (("kernels", 0, "normalization", "epsilon"), math.inf, r"kernels\[0\].normalization.epsilon"),
    (("kernels", 0, "data"), len(TEMPLATE) - 53, r"kernels\[0\].data"),
    (("kernels", 0, "data"), -1, r"kernels\[0\].data"),
    (("kernels", 0, "scales"), RECIPE.kernels[0].bias_scales + 4, "overlaps"),
    (("kernels", 0, "bias_data"), RECIPE.kernels[1].data + 1, "overlaps"),
    (("kernels", 1, "bias_scales"), HUGE, r"kernels\[1\].bias_scales"),
]


@pytest.mark.parametrize("path", range(len(HOSTILE)))
def test_a_wrong_field_is_named(path: int) -> None:
    keys, value, words = HOSTILE[path]
    hostile: Any = copy.deepcopy(recipe_json())
    if not keys:
        hostile = value
    else:
        target = hostile
        for key in keys[:-1]:
            target = target[key]
        assert target[keys[-1]] is not value
        target[keys[-1]] = value
    with pytest.raises(RecipeError, match=words) as caught:
        Int8Recipe.from_json(hostile, LAYOUT, len(TEMPLATE))
    assert "make model" in str(caught.value)


@pytest.mark.parametrize("where", [(), ("points", 0), ("kernels", 0), ("kernels", 0, "normalization")])
def test_missing_and_unknown_fields_are_refused(where: tuple[Any, ...]) -> None:
    target: Any = recipe_json()
    for key in where:
        target = target[key]
    for name in list(target):
        hostile: Any = recipe_json()
        inside = hostile
        for key in where:
            inside = inside[key]
        del inside[name]
        with pytest.raises(RecipeError):
            Int8Recipe.from_json(hostile, LAYOUT, len(TEMPLATE))
        inside[name], inside["surplus"] = target[name], 1
        with pytest.raises(RecipeError):
            Int8Recipe.from_json(hostile, LAYOUT, len(TEMPLATE))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda it: st.lists(it, max_size=3) | st.dictionaries(st.text(max_size=5), it, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_value_anywhere_makes_anything_but_a_recipe_error(data: st.DataObject) -> None:
    hostile = recipe_json()
    target: Any = hostile
    while True:
        key = data.draw(
            st.sampled_from(sorted(target)) if isinstance(target, dict) else st.integers(0, len(target) - 1)
        )
        if not isinstance(target[key], dict | list) or not target[key] or data.draw(st.booleans()):
            break
        target = target[key]
    target[key] = data.draw(JSON)
    try:
        recipe = Int8Recipe.from_json(hostile, LAYOUT, len(TEMPLATE))
    except RecipeError:
        return
    # What is taken can be written with, without another exception than one of the weights.
    with contextlib.suppress(NotQuantizableError):
        assert len(write_int8(TEMPLATE, recipe, VECTOR)) == len(TEMPLATE)


def test_another_layout_does_not_fit() -> None:
    other = Layout(tuple(replace(it, name=f"other/{it.name}") for it in LAYOUT.tensors))
    with pytest.raises(RecipeError, match="no tensor"):
        Int8Recipe.from_json(recipe_json(), other, len(TEMPLATE))


# ---------------------------------------------------------------------- the scorer


@pytest.mark.parametrize("batch", [1, 8, COUNT, 2 * COUNT])
def test_the_accuracy_is_that_of_the_files_classes(batch: int) -> None:
    logits, _ = run(write_int8(TEMPLATE, RECIPE, VECTOR), X)
    y = logits.argmax(axis=1).astype(np.int32)
    assert len(set(y.tolist())) > 1
    y[:15] = (y[:15] + 1) % int8_example.CLASSES
    scorer = Int8Scorer(TEMPLATE, RECIPE, SHAPE, batch)
    assert scorer.evaluate(VECTOR, X, y, never) == (COUNT - 15) / COUNT
    # Another vector, and the first again.
    opposite = changed(logits__kernel=-LAYOUT.split(VECTOR)["example/logits/kernel"])
    assert scorer.evaluate(opposite, X, y, never) < 0.6
    assert scorer.evaluate(VECTOR, X, y, never) == (COUNT - 15) / COUNT


def test_scoring_is_cancelled_between_batches() -> None:
    calls = iter([False, False, True])
    with pytest.raises(Cancelled):
        Int8Scorer(TEMPLATE, RECIPE, SHAPE, 8).evaluate(VECTOR, X, np.zeros(COUNT, np.int32), lambda: next(calls))
    assert next(calls, "asked three times") == "asked three times"


def test_a_vector_without_an_int8_form_cannot_be_scored() -> None:
    scorer = Int8Scorer(TEMPLATE, RECIPE, SHAPE, 8)
    with pytest.raises(NotQuantizableError):
        scorer.evaluate(changed(relu_range__range=0), X, np.zeros(COUNT, np.int32), never)


def test_a_template_that_the_interpreter_refuses_names_the_remedy() -> None:
    broken = b"\0" * len(TEMPLATE)
    with pytest.raises(RecipeError, match=r"cannot run the int8 model .*make model"):
        Int8Scorer(broken, RECIPE, SHAPE, 8).evaluate(VECTOR, X, np.zeros(COUNT, np.int32), never)
    with pytest.raises(RecipeError, match=r"takes examples of shape \(6, 5, 2\), not \(3, 3, 2\)"):
        Int8Scorer(TEMPLATE, RECIPE, (3, 3, 2), 8).evaluate(VECTOR, X, np.zeros(COUNT, np.int32), never)


def test_the_scorer_names_its_runtime() -> None:
    assert Int8Scorer(TEMPLATE, RECIPE, SHAPE, 8).runtime == load_runtime()[0]
