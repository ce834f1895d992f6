"""This peer's noise: drawn once for each vector and amount, by a key that stays on the board and is its own."""

from __future__ import annotations

import itertools
import os
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny import LARGE, vector

from aggregator_core import l2_norm
from aggregator_core.parameters import ParameterError
from aggregator_core.privacy import Privacy
from aggregator_core.privacy_accountant import epsilon
from edge_peer.errors import ResourceError
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.shell.noise import KEY_BYTES, KeyedBytes, Noise, cost, privacy_of

F32 = npt.NDArray[np.float32]
LOCAL = Privacy("local", clip=0.5, noise_multiplier=1.0)
CENTRAL = Privacy("central", clip=0.5, noise_multiplier=1.0)
TRAINED = LARGE.trained_size
CHANGE = vector(1, LARGE) * np.float32(0.01)


def noise_in(folder: Path) -> Noise:
    return Noise(folder, TRAINED)


def added(noise: Noise, change: F32 = CHANGE, privacy: Privacy = LOCAL, place: str = "base/1") -> F32:
    return noise.of_own(change, privacy, place) - change


# ---------------------------------------------------------------------- the key


def test_the_key_is_made_when_it_is_needed_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    noise, path = noise_in(tmp_path), tmp_path / "noise.key"
    assert not path.exists()
    before = os.umask(0)
    try:
        noise.of_own(CHANGE, LOCAL, "base/1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == KEY_BYTES
    assert [it.name for it in tmp_path.iterdir()] == ["noise.key"]


def test_the_key_survives_a_restart_and_with_it_the_noise(tmp_path: Path) -> None:
    first = noise_in(tmp_path).of_own(CHANGE, LOCAL, "base/1")
    key = (tmp_path / "noise.key").read_bytes()
    assert noise_in(tmp_path).of_own(CHANGE, LOCAL, "base/1").tobytes() == first.tobytes()
    assert (tmp_path / "noise.key").read_bytes() == key


def test_every_board_has_a_key_of_its_own(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    one, two = (noise_in(folder).of_own(CHANGE, LOCAL, "base/1") for folder in folders)
    assert not np.isclose(one, two, rtol=0, atol=1e-6).any()


def test_a_key_that_is_cut_off_is_made_anew(tmp_path: Path) -> None:
    for content in (b"", b"x" * (KEY_BYTES - 1), b"x" * (KEY_BYTES + 1)):
        (tmp_path / "noise.key").write_bytes(content)
        noise_in(tmp_path).of_own(CHANGE, LOCAL, "base/1")
        key = (tmp_path / "noise.key").read_bytes()
        assert len(key) == KEY_BYTES
        assert key[:1] * KEY_BYTES != key
        assert stat.S_IMODE((tmp_path / "noise.key").stat().st_mode) == 0o600


class PowerLossError(BaseException):
    """The process is gone; no handler of ours may swallow it."""


@pytest.mark.parametrize("step", [1, 2, 3])
def test_nothing_is_told_with_a_key_that_a_loss_of_power_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    calls = itertools.count(1)
    with monkeypatch.context() as patch:
        for owner, name, real in ((os, "fsync", os.fsync), (Path, "replace", Path.replace)):

            def call(*arguments: Any, real: Any = real) -> Any:
                if next(calls) == step:
                    raise PowerLossError
                return real(*arguments)

            patch.setattr(owner, name, call)
        with pytest.raises(PowerLossError):
            noise_in(tmp_path).of_own(CHANGE, LOCAL, "base/1")
    # The next process has a whole key, be it that one or another.
    first = noise_in(tmp_path).of_own(CHANGE, LOCAL, "base/1")
    assert noise_in(tmp_path).of_own(CHANGE, LOCAL, "base/1").tobytes() == first.tobytes()


def test_a_folder_that_takes_no_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"noise\.key: cannot be written \(No such file.*\); free some"):
        noise_in(tmp_path / "nothing").of_own(CHANGE, LOCAL, "base/1")
    (tmp_path / "noise.key").mkdir()
    with pytest.raises(ResourceError, match=r"noise\.key: cannot be read \(Is a directory\)"):
        noise_in(tmp_path).of_own(CHANGE, LOCAL, "base/1")


def test_two_threads_that_need_the_key_first_get_the_same(tmp_path: Path) -> None:
    for _ in range(20):
        noise, found = noise_in(tmp_path), []
        gate = threading.Barrier(2)

        def draw(noise: Noise = noise, found: list[bytes] = found, gate: threading.Barrier = gate) -> None:
            gate.wait()
            found.append(noise.of_own(CHANGE, LOCAL, "base/1").tobytes())

        threads = [threading.Thread(target=draw) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1
        (tmp_path / "noise.key").unlink()


# ---------------------------------------------------------------------- the noise


def test_the_same_vector_has_the_same_noise_and_another_another(tmp_path: Path) -> None:
    noise = noise_in(tmp_path)
    first = noise.of_own(CHANGE, LOCAL, "base/1")
    assert noise.of_own(CHANGE.copy(), LOCAL, "base/1").tobytes() == first.tobytes()
    other = CHANGE.copy()
    other[7] = np.nextafter(other[7], np.float32(1))
    draws = {
        "itself": first - CHANGE,
        "in the last bit": added(noise, other),
        "in another round": added(noise, place="base/2"),
        "of another base": added(noise, place="other/1"),
        "as a mean of one": noise.of_mean(CHANGE, 1, CENTRAL, "base/1") - CHANGE,
    }
    for (one, a), (two, b) in itertools.combinations(draws.items(), 2):
        assert abs(np.corrcoef(a[:TRAINED], b[:TRAINED])[0, 1]) < 0.3, (one, two)


@pytest.mark.parametrize(
    "other",
    [
        Privacy("local", clip=0.5, noise_multiplier=2.0),
        Privacy("local", clip=1.0, noise_multiplier=1.0),
        Privacy("local", clip=0.5, noise_multiplier=1.0, state_clip=0.25),
    ],
    ids=["noise", "clip", "state"],
)
def test_the_vector_cannot_be_computed_of_two_amounts_of_noise(tmp_path: Path, other: Privacy) -> None:
    """A second run from the same weights with more noise: were it the same noise, two equations would give both."""
    noise = noise_in(tmp_path)
    sent, again = noise.of_own(CHANGE, LOCAL, "base/1"), noise.of_own(CHANGE, other, "base/1")
    for part, state in ((slice(0, TRAINED), False), (slice(TRAINED, None), True)):
        one, two = (it.deviations(state=True)[state] for it in (LOCAL, other))
        if one == two:
            # Independent all the same, since the amount of the other part differs.
            assert abs(sent[part] - again[part]).max() > one / 100
            continue
        solved = (two * sent[part].astype(float) - one * again[part]) / (two - one)
        # Where the noises differ, what is solved is as far off as the smaller one is large.
        assert abs(solved - CHANGE[part]).max() > min(one, two) / 10


def test_the_mean_of_more_peers_has_other_noise(tmp_path: Path) -> None:
    noise = noise_in(tmp_path)
    two, four = (noise.of_mean(CHANGE, peers, CENTRAL, "base/1") for peers in (2, 4))
    # With the same draws, twice the one less the other would be the mean itself.
    assert abs(2 * four.astype(float) - two - CHANGE).max() > 0.01


def test_the_noise_is_as_much_as_was_promised_and_goes_both_ways(tmp_path: Path) -> None:
    noise = noise_in(tmp_path)
    draws = np.stack([added(noise, place=f"base/{round_}") for round_ in range(200)]).astype(float)
    for part, deviation in zip((draws[:, :TRAINED], draws[:, TRAINED:]), LOCAL.deviations(state=True), strict=True):
        # 42,000 and 2,000 draws by a random key: six standard errors.
        assert abs(part.std() / deviation - 1) < 6 / np.sqrt(2 * part.size)
        assert abs(part.mean()) < 6 * deviation / np.sqrt(part.size)


def test_a_mean_of_more_peers_has_less_noise(tmp_path: Path) -> None:
    noise = noise_in(tmp_path)
    spread = {
        peers: np.std([noise.of_mean(CHANGE, peers, CENTRAL, f"b/{i}") - CHANGE for i in range(20)])
        for peers in (1, 10)
    }
    assert 8 < spread[1] / spread[10] < 12.5


def test_what_is_shortened_is_within_the_bounds_of_both_parts(tmp_path: Path) -> None:
    noise = noise_in(tmp_path)
    long = vector(1, LARGE) * np.float32(100)
    before = long.copy()
    short = noise.shortened(long, LOCAL)
    assert LOCAL.clip * 0.99 < l2_norm(short[:TRAINED]) <= LOCAL.clip
    assert LOCAL.state_bound * 0.99 < l2_norm(short[TRAINED:]) <= LOCAL.state_bound
    np.testing.assert_array_equal(long, before)
    assert noise.shortened(short, LOCAL) is short


# ---------------------------------------------------------------------- bytes by a key


def test_bytes_are_a_function_of_key_and_purpose_and_never_repeat() -> None:
    one = KeyedBytes(b"k" * 32, b"purpose")
    blocks = [one.randbytes(64) for _ in range(50)]
    again = KeyedBytes(b"k" * 32, b"purpose")
    assert [again.randbytes(64) for _ in range(50)] == blocks
    others = [KeyedBytes(b"k" * 32, b"other"), KeyedBytes(b"l" * 32, b"purpose")]
    blocks += [it.randbytes(64) for it in others]
    pieces = [block[i : i + 8] for block in blocks for i in range(0, 64, 8)]
    assert len(set(pieces)) == len(pieces)
    assert [len(one.randbytes(size)) for size in (0, 1, 1000)] == [0, 1, 1000]


# ---------------------------------------------------------------------- settings


def test_what_a_run_promises_is_in_its_settings() -> None:
    assert privacy_of(RunSettings()) is None
    settings = RunSettings(privacy="local", privacy_clip=0.5, privacy_noise=1.5, privacy_delta=1e-6)
    assert privacy_of(settings) == Privacy("local", 0.5, 1.5, 1e-6)
    assert cost(settings, 10) == epsilon(1.5, 10, 1e-6)
    assert cost(settings, 0) == 0.0
    assert cost(RunSettings(), 10) is None


def test_settings_that_promise_nonsense_have_no_cost() -> None:
    wrong = RunSettings(privacy="central", privacy_noise=1e6)
    with pytest.raises(ParameterError, match=r"noise_multiplier is 1000000\.0"):
        privacy_of(wrong)
    assert cost(wrong, 10) is None
