"""What is rounded and with which scale: a layout divided by hand, and by loops."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from test_aggregator_codecs import changes, layout_of

from aggregator_core.checks import BLOCK
from aggregator_core.codecs.plan import plan_of

LAYOUT = layout_of(
    [
        ((3, 3, 2, 8), 3, "weight"),
        ((8,), None, "bias"),
        ((64,), None, "bias"),
        ((65,), None, "bias"),
        ((16, 8), 0, "weight"),
        ((16, 7), 0, "weight"),
        ((5, 6, 7), 1, "weight"),
        ((500,), None, "state"),
    ]
)


def test_a_layout_is_divided_by_kind_and_size() -> None:
    plan = plan_of(LAYOUT)
    assert [it.name for it in plan.exact] == ["t1", "t2", "t7"]
    found = [(it.name, it.offset, it.size, it.channels, it.inner) for it in plan.parts]
    assert found == [
        ("t0", 0, 144, 8, 1),
        ("t3", 216, 65, 1, 65),
        ("t4", 281, 128, 16, 8),
        # Channels of seven values share one scale.
        ("t5", 409, 112, 1, 112),
        ("t6", 521, 210, 6, 7),
    ]
    assert (plan.exact_size, plan.coded_size, plan.scales) == (572, 659, 32)
    assert plan.exact_size + plan.coded_size == LAYOUT.size


def test_without_channels_every_tensor_has_one_scale() -> None:
    plan = plan_of(LAYOUT, per_channel=False)
    assert [(it.name, it.channels, it.inner) for it in plan.parts] == [
        ("t0", 1, 144),
        ("t3", 1, 65),
        ("t4", 1, 128),
        ("t5", 1, 112),
        ("t6", 1, 210),
    ]
    assert (plan.exact_size, plan.coded_size, plan.scales) == (572, 659, 5)


@given(changes())
def test_channels_and_peaks_are_those_of_loops(it) -> None:
    layout, change = it
    tensors = {tensor.name: tensor for tensor in layout.tensors}
    for part in plan_of(layout).parts:
        tensor = tensors[part.name]
        places = itertools.product(*(range(size) for size in tensor.shape))
        channels = [0 if part.channels == 1 else place[tensor.axis] for place in places]
        assert part.channel_of(0, part.size).tolist() == channels
        assert part.channel_of(3, 20).tolist() == channels[3:20]
        peaks = [0.0] * part.channels
        for channel, value in zip(channels, change[part.offset : part.offset + part.size].tolist(), strict=True):
            peaks[channel] = max(peaks[channel], abs(value))
        found = part.peaks(change)
        assert found.tolist() == peaks
        assert found.dtype == np.float32
        assert not np.signbit(found).any()


def test_blocks_cover_a_part_in_order() -> None:
    (part,) = plan_of(layout_of([((2 * BLOCK + 5,), None, "weight")])).parts
    assert list(part.blocks()) == [(0, BLOCK), (BLOCK, 2 * BLOCK), (2 * BLOCK, 2 * BLOCK + 5)]
