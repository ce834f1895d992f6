"""Making an update: what is sent decodes to its digest, what is left out is remembered, and again gives the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny import CODECS, LARGE, model, offer_of, vector

from aggregator_core import RefusedUpdateError, l2_norm
from aggregator_core.codecs import CodecNameError
from aggregator_core.parameters import ParameterError
from aggregator_core.privacy import Privacy
from aggregator_core.scaffold import correction_of, new_control
from edge_peer.errors import ResourceError
from edge_peer.protocol.events import TrainingKey
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.state import Memory
from edge_peer.shell.global_model import CONTROL, GlobalModel
from edge_peer.shell.noise import Noise
from edge_peer.shell.payload import decode_update, encode_update
from edge_peer.shell.remembered import Remembered, Remembrance
from edge_peer.shell.updates import Made, UpdateMaker
from edge_peer.trainers.interface import TrainingResult
from edge_peer.trainers.optimizer import LocalOptimizer

F32 = npt.NDArray[np.float32]
TRAINED = LARGE.trained_size
SGD = LocalOptimizer("sgd")
BASE = model(0, LARGE, CONTROL)


class Peer:
    """A trainer's maker and its disk; `restarted` is what the next process sees."""

    def __init__(self, folder: Path, optimizer: LocalOptimizer = SGD) -> None:
        self.folder, self.optimizer = folder, optimizer
        self.remembrance = Remembrance(folder, LARGE)
        self.maker = UpdateMaker(LARGE, self.remembrance, Noise(folder, TRAINED), optimizer)

    def restarted(self) -> Peer:
        return Peer(self.folder, self.optimizer)

    def make(
        self, run: RunSettings, seed: int = 1, round_: int = 4, after: str | None = None, base: GlobalModel = BASE
    ) -> Made:
        """The update of a training that changed each weight by about a tenth."""
        result = TrainingResult(base.vector + vector(seed, LARGE) * np.float32(0.1), 0.5, 100, 5, 1.0)
        key = TrainingKey("run-1", round_, base.digest)
        return self.maker.make(key, run, base, result, self.maker.before(after), 1000 * round_, after)


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return Peer(tmp_path)


def change_of(seed: int = 1, base: GlobalModel = BASE) -> F32:
    """What `Peer.make` has trained."""
    change: F32 = (base.vector + vector(seed, LARGE) * np.float32(0.1)) - base.vector
    return change


def settings(**fields: Any) -> RunSettings:
    return RunSettings(**{"learning_rate": 0.1, "codec": "float32", **fields})


# ---------------------------------------------------------------------- codecs


@pytest.mark.parametrize("scaffold", [False, True])
@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("codec", CODECS)
def test_what_is_sent_decodes_to_its_digest(peer: Peer, codec: str, feedback: bool, scaffold: bool) -> None:
    own = peer.make(settings(codec=codec, error_feedback=feedback, scaffold=scaffold)).own
    assert own.digest == own.change.digest
    offer = offer_of(own.change, codec)
    found = decode_update(encode_update(offer, own.encoded), offer, LARGE)
    assert found.digest == own.digest
    assert found.vector.tobytes() == own.change.vector.tobytes()
    assert (found.control is not None) == scaffold


def test_without_a_codec_it_is_what_was_trained(peer: Peer) -> None:
    made = peer.make(settings())
    assert made.own.change.vector.tobytes() == change_of().tobytes()
    assert (made.norm, made.remembers) == (0.0, False)
    assert list(peer.folder.iterdir()) == []


@pytest.mark.parametrize("codec", CODECS)
def test_rounding_is_off_by_no_more_than_a_step(peer: Peer, codec: str) -> None:
    found = peer.make(settings(codec=codec)).own.change.vector
    off = abs(found - change_of())
    steps = {"float32": 0.0, "float16": 2**-11, "int8": 1 / 127, "int4": 1 / 7, "topk-0.1": 1.0}
    assert off.max() <= steps[codec] * abs(change_of()).max()
    # Biases are few and state is exact.
    assert off[200:].max() == 0.0


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_rounding_is_by_chance_without_feedback_and_to_the_nearest_with_it(peer: Peer, codec: str) -> None:
    sent = [peer.make(settings(codec=codec), round_=round_).own.digest for round_ in (4, 4, 5)]
    assert sent[0] == sent[1] != sent[2]
    # The first of a run, where nothing is left of earlier ones: whatever the seed.
    fed = [peer.make(settings(codec=codec, error_feedback=True), round_=round_).own.digest for round_ in (4, 5)]
    assert fed[0] == fed[1]


@pytest.mark.parametrize("feedback", [False, True])
def test_a_control_is_rounded_by_chance_because_nothing_of_it_is_fed_back(peer: Peer, feedback: bool) -> None:
    run = settings(codec="int4", scaffold=True, error_feedback=feedback)
    rounds = [peer.make(run, round_=round_).own.change.control for round_ in range(1, 41)]
    sent = np.stack([it for it in rounds if it is not None])[:, :TRAINED]
    exact = peer.make(settings(scaffold=True)).own.change.control
    assert exact is not None
    step = abs(sent).max() / 7
    # Their mean is off by less than four standard errors of a step's chances, where one value alone may be off by one.
    assert abs(sent[0] - exact[:TRAINED]).max() > step / 2
    assert abs(sent.mean(axis=0) - exact[:TRAINED]).max() < 4 * step / 2 / np.sqrt(40)


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_sent_and_what_is_left_are_what_was_left_and_what_was_trained(peer: Peer, codec: str) -> None:
    run, after, left = settings(codec=codec, error_feedback=True), None, np.zeros(LARGE.size, np.float32)
    sent_so_far = np.zeros(LARGE.size)
    for round_ in range(1, 8):
        made = peer.make(run, seed=round_, round_=round_, after=after)
        sent = made.own.change.vector
        after = made.own.digest
        residual = peer.maker.before(after).residual
        assert residual is not None
        wanted = change_of(round_) + left
        np.testing.assert_array_equal(residual, wanted - sent)
        np.testing.assert_allclose(residual + sent, wanted, rtol=1e-6, atol=1e-7)
        left = residual
        sent_so_far += sent
    # So nothing is lost for good: the sum of what was sent is off by what is left now, and by no more.
    total = sum(change_of(round_).astype(np.float64) for round_ in range(1, 8))
    np.testing.assert_allclose(sent_so_far + left, total, atol=1e-5)


def test_what_was_not_counted_is_not_taken_for_said(peer: Peer) -> None:
    run = settings(codec="topk-0.1", error_feedback=True)
    first = peer.make(run, 1, 1)
    refused = peer.make(run, 2, 2, first.own.digest)
    assert refused.remembers
    third = peer.make(run, 3, 3, first.own.digest)
    before = peer.maker.before(first.own.digest).residual
    assert before is not None
    left = peer.maker.before(third.own.digest).residual
    np.testing.assert_array_equal(left, (change_of(3) + before) - third.own.change.vector)
    assert peer.maker.before(refused.own.digest).empty


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("run", "remembers"),
    [
        (settings(codec="int8"), False),
        (settings(codec="int8", error_feedback=True), True),
        (settings(scaffold=True), True),
        (settings(codec="topk-0.1", error_feedback=True, scaffold=True), True),
        (settings(privacy="local"), False),
    ],
)
def test_the_memory_is_on_disk_before_the_update_is_told(peer: Peer, run: RunSettings, remembers: bool) -> None:
    made = peer.make(run)
    assert made.remembers == remembers
    found = Remembrance(peer.folder, LARGE)
    assert found.memories == ((Memory("run-1", 4, made.own.digest),) if remembers else ())
    mine, its = peer.maker.before(made.own.digest), found.after(made.own.digest)
    assert (mine.residual is not None, mine.control is not None) == (run.error_feedback, run.scaffold)
    for one, other in ((mine.residual, its.residual), (mine.control, its.control)):
        assert (one is None) == (other is None)
        assert one is None or other is None or one.tobytes() == other.tobytes()


def test_a_disk_that_takes_no_memory_is_told_and_nothing_is_remembered(peer: Peer) -> None:
    (peer.folder / ".memory-0.safetensors.new").mkdir()
    with pytest.raises(ResourceError, match="memory-0"):
        peer.make(settings(scaffold=True))
    assert peer.remembrance.memories == ()


@pytest.mark.parametrize("privacy", ["none", "local", "central"])
@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("codec", ["float32", "int8", "topk-0.1"])
def test_the_same_job_after_a_restart_gives_the_same_bytes(
    peer: Peer, codec: str, feedback: bool, privacy: str
) -> None:
    """A peer that lost its power before it could send, or after: nobody learns more than from one of the two."""
    run = settings(codec=codec, error_feedback=feedback, privacy=privacy, scaffold=privacy == "none")
    counted = peer.make(run, 1, 1)
    after = counted.own.digest if counted.remembers else None
    made = peer.make(run, 2, 2, after)
    again = peer.restarted()
    if made.remembers:
        assert {it.digest for it in again.remembrance.memories} == {counted.own.digest, made.own.digest}
    repeated = again.make(run, 2, 2, after)
    assert repeated.own.digest == made.own.digest
    assert bytes(repeated.own.encoded.vector) == bytes(made.own.encoded.vector)
    assert repeated.own.encoded.control == made.own.encoded.control
    # And what comes after goes on from the same memory.
    after = made.own.digest if made.remembers else None
    assert again.restarted().make(run, 3, 3, after).own.digest == peer.make(run, 3, 3, after).own.digest


# ---------------------------------------------------------------------- SCAFFOLD


def control_of(made: Made) -> F32:
    assert made.own.change.control is not None
    return made.own.change.control


@pytest.mark.parametrize("codec", CODECS)
def test_the_own_control_goes_by_what_was_sent(peer: Peer, codec: str) -> None:
    run, own, after = settings(scaffold=True, codec=codec), np.zeros(TRAINED, np.float32), None
    for round_ in (1, 2, 3):
        before = peer.maker.before(after)
        correction = peer.maker.correction(run, BASE, before)
        assert correction is not None
        np.testing.assert_array_equal(correction, correction_of(own, BASE.server[CONTROL]))
        made = peer.make(run, round_, round_, after)
        sent, after = control_of(made), made.own.digest
        assert not sent[TRAINED:].any()
        wanted = new_control(own, BASE.server[CONTROL], change_of(round_)[:TRAINED], 5, 0.1) - own
        assert abs(sent[:TRAINED] - wanted).max() <= (1 if codec != "float32" else 0) * abs(wanted).max()
        own = own + sent[:TRAINED]
        np.testing.assert_array_equal(peer.restarted().maker.before(after).control, own)


def test_both_controls_begin_with_zeros(peer: Peer) -> None:
    plain, run = model(0, LARGE), settings(scaffold=True)
    correction = peer.maker.correction(run, plain, Remembered())
    np.testing.assert_array_equal(correction, np.zeros(TRAINED, np.float32))
    assert peer.maker.correction(settings(), BASE, Remembered()) is None
    control = control_of(peer.make(run, base=plain))
    np.testing.assert_allclose(control[:TRAINED], -change_of(base=plain)[:TRAINED] / 0.5, rtol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD,
        LocalOptimizer("sgd", 0.9),
        LocalOptimizer("sgd", 0.9, nesterov=True),
        LocalOptimizer("sgd", 0.5, clips=True),
    ],
    ids=["sgd", "momentum", "nesterov", "clipped"],
)
@pytest.mark.parametrize("proximal", [0.0, 0.5])
def test_a_control_is_about_the_gradient_whatever_the_optimizer_makes_of_it(
    tmp_path: Path, optimizer: LocalOptimizer, proximal: float
) -> None:
    """Steps with one and the same gradient: the control must be that, less nothing, and not ten times as much."""
    peer, gradient, rate = Peer(tmp_path, optimizer), vector(3, LARGE)[:TRAINED].astype(np.float64), 0.1
    moved = velocity = np.zeros(TRAINED)
    for _ in range(5):
        step = gradient + proximal * moved
        velocity = optimizer.momentum * velocity - rate * step
        moved = moved + (optimizer.momentum * velocity - rate * step if optimizer.nesterov else velocity)
    base = model(0, LARGE)
    weights = base.vector.copy()
    weights[:TRAINED] += moved.astype(np.float32)
    result = TrainingResult(weights, 0.5, 100, 5, 1.0)
    run = settings(scaffold=True, proximal=proximal, learning_rate=rate)
    made = peer.maker.make(TrainingKey("run-1", 1, base.digest), run, base, result, Remembered(), 1, None)
    np.testing.assert_allclose(control_of(made)[:TRAINED], gradient, rtol=1e-4, atol=1e-5)


def test_a_training_that_has_no_control_is_refused_and_does_not_end_the_peer(tmp_path: Path, peer: Peer) -> None:
    (tmp_path / "adam").mkdir()
    adam = Peer(tmp_path / "adam", LocalOptimizer("adam"))
    with pytest.raises(ParameterError, match="the model's optimizer is 'adam', whose steps do not tell"):
        adam.make(settings(scaffold=True))
    adam.make(settings())
    with pytest.raises(ParameterError, match="learning_rate is 0"):
        peer.make(settings(scaffold=True, learning_rate=0.0))
    assert peer.remembrance.memories == ()


# ---------------------------------------------------------------------- privacy and bounds


def test_local_privacy_shortens_and_adds_noise_before_the_codec(peer: Peer) -> None:
    made = peer.make(settings(privacy="local", privacy_clip=0.5))
    privacy, noise = Privacy("local", 0.5, 1.0), Noise(peer.folder, TRAINED)
    noisy = noise.of_own(noise.shortened(change_of(), privacy), privacy, f"{BASE.digest}/4")
    assert made.own.change.vector.tobytes() == noisy.tobytes()
    coded = peer.make(settings(privacy="local", privacy_clip=0.5, codec="int8")).own.change.vector
    assert 0 < abs(coded - noisy).max() <= abs(noisy).max() / 127


def test_central_privacy_shortens_and_leaves_the_noise_to_the_controller(peer: Peer) -> None:
    made = peer.make(settings(privacy="central", privacy_clip=0.5))
    short = made.own.change.vector
    assert 0.499 < l2_norm(short[:TRAINED]) <= 0.5
    np.testing.assert_allclose(
        short[:TRAINED] / l2_norm(short[:TRAINED]), change_of()[:TRAINED] / l2_norm(change_of()[:TRAINED]), rtol=1e-4
    )
    assert not (peer.folder / "noise.key").exists()


@pytest.mark.parametrize("privacy", ["central", "local"])
def test_with_privacy_what_is_left_out_comes_later_too(peer: Peer, privacy: str) -> None:
    run = settings(privacy=privacy, privacy_clip=0.5, codec="int4", error_feedback=True)
    first = peer.make(run, 1, 1)
    left = peer.maker.before(first.own.digest).residual
    assert left is not None
    assert 0 < abs(left).max() <= abs(first.own.change.vector).max() / 7


def test_the_norm_is_that_of_what_others_work_with(peer: Peer) -> None:
    made = peer.make(settings(codec="int4", update_norm_max=9.0))
    assert made.norm == l2_norm(made.own.change.vector[:TRAINED]) != l2_norm(change_of()[:TRAINED])


def test_what_does_not_fit_is_refused_and_leaves_no_memory(peer: Peer) -> None:
    big = GlobalModel(BASE.vector, {})
    result = TrainingResult(big.vector + np.float32(1e5), 0.5, 100, 5, 1.0)
    key = TrainingKey("run-1", 1, big.digest)
    for run, error in (
        (settings(codec="float16", error_feedback=True), RefusedUpdateError),
        (settings(codec="zip", error_feedback=True), CodecNameError),
        (settings(privacy="local", privacy_noise=1e6), ParameterError),
    ):
        with pytest.raises(error):
            peer.maker.make(key, run, big, result, Remembered(), 1, None)
    assert peer.remembrance.memories == ()
