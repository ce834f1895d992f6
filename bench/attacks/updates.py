"""What bad peers send: attacks as functions of updates, without I/O.

Sign flip, scaling, noise and flipped labels need only what a bad peer has itself. "A little is enough" and
inner-product manipulation are omniscient here: they see every honest update of the round before they answer, and all
bad peers send the same. From the bad peers' own updates both can be done too, less exactly: this is the worst case.

Sources:

    sign_flip           Li et al., "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from
                        Heterogeneous Datasets", AAAI 2019 (arXiv:1811.03761)
    scaled              Bagdasaryan et al., "How To Backdoor Federated Learning", AISTATS 2020 (arXiv:1807.00459): model
                        replacement
    gaussian            Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
                        NeurIPS 2017 (arXiv:1703.02757)
    flip_labels         Fang et al., "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning", USENIX
                        Security 2020 (arXiv:1911.11815)
    little_is_enough    Baruch et al., "A Little Is Enough: Circumventing Defenses For Distributed Learning", NeurIPS
                        2019 (arXiv:1902.06156)
    inner_product       Xie et al., "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation",
                        UAI 2019 (arXiv:1903.03936)
"""

from __future__ import annotations

import statistics

import numpy as np

from edge_peer.trainers.interface import F32, I32


def sign_flip(own: F32, factor: float) -> F32:
    """Against what the bad peers themselves have trained; own and result of shape (f, p), float32."""
    flipped: F32 = np.multiply(own, np.float32(-factor))
    return flipped


def scaled(own: F32, factor: float) -> F32:
    """What the bad peers have trained, but farther; own and result of shape (f, p), float32."""
    longer: F32 = np.multiply(own, np.float32(factor))
    return longer


def gaussian(own: F32, std: float, rng: np.random.Generator) -> F32:
    """Noise with mean zero, as many values as the bad peers' updates have; shape (f, p), float32."""
    return rng.normal(0.0, std, own.shape).astype(np.float32)


def flip_labels(y: I32, classes: int) -> I32:
    """Labels from the last class to the first: a bad peer trains honestly, on wrong data; shape (n,), int32."""
    return classes - 1 - y


def supported_z(n: int, f: int) -> float:
    """How many standard deviations from the mean a value of f bad peers may be and still be the majority's.

    With so many honest peers beyond it, on average, that these and the bad peers are more than half of n.

    Args:
        n: All peers.
        f: Bad ones, 1 to below half of n.
    """
    if not 1 <= f < n / 2:
        raise ValueError(f"f is {f}, not from 1 and below half of {n}")
    needed = n // 2 + 1 - f
    return statistics.NormalDist().inv_cdf((n - f - needed) / (n - f))


def little_is_enough(honest: F32, f: int, z: float | None = None) -> F32:
    """Every value as far below the honest mean as honest ones are, so that distances tell nothing.

    Args:
        honest: Shape (n - f, p), float32.
        f: Bad peers.
        z: Standard deviations; None: `supported_z`.

    Returns:
        Shape (f, p), float32, all rows equal.
    """
    z = supported_z(len(honest) + f, f) if z is None else z
    exact = honest.astype(np.float64)
    return np.tile((exact.mean(axis=0) - z * exact.std(axis=0)).astype(np.float32), (f, 1))


def inner_product(honest: F32, f: int, epsilon: float) -> F32:
    """Against the honest mean: below 1 short enough to be near honest updates, above (n - f) / f it turns the mean.

    Args:
        honest: Shape (n - f, p), float32.
        f: Bad peers.
        epsilon: How far, in lengths of the honest mean.

    Returns:
        Shape (f, p), float32, all rows equal.
    """
    mean = honest.mean(axis=0, dtype=np.float64)
    return np.tile((-epsilon * mean).astype(np.float32), (f, 1))
