"""The same bytes on every board: other instructions of the processor and other kernels of the BLAS change nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Prints a digest of every rule's and every optimizer's result, and of a plain product, which does depend on kernels.
SCRIPT = """
import hashlib
import numpy as np
from aggregator_core.rule import Report
from aggregator_core.rules import RULES, make_rule
from aggregator_core.server_optimizers import OPTIMIZERS, make_optimizer

def show(name, array):
    print(name, hashlib.sha256(array.tobytes()).hexdigest())

for n, size in ((7, 33), (40, 30_001), (130, 5_003)):
    rng = np.random.Generator(np.random.PCG64(n))
    updates = (rng.integers(-2**24, 2**24, size=(n, size)) / 2**20).astype(np.float32)
    reports = [Report(steps=1 + i % 5, staleness=i % 3, loss=0.5 + i / 7) for i in range(n)]
    for name in RULES:
        show(f"{n} {name}", make_rule(name).aggregate(updates, range(5, n + 5), reports))
    show(f"{n} fair", make_rule("qfedavg", q=2.7).aggregate(updates, [1] * n, reports))
    for name in OPTIMIZERS:
        optimizer = make_optimizer(name)
        change, state = optimizer.step(updates[0], optimizer.initial(size))
        change, state = optimizer.step(updates[1], state)
        show(f"{n} {name}", change)
show("product", updates @ updates.T)
"""
try:
    from numpy._core._multiarray_umath import __cpu_dispatch__ as dispatched
except ImportError:  # numpy 1
    from numpy.core._multiarray_umath import __cpu_dispatch__ as dispatched


def digests(**settings: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS", "NPY"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        cwd=ROOT,
        env={**environment, "OPENBLAS_NUM_THREADS": "1", **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def usual() -> dict[str, str]:
    return digests()


@pytest.mark.parametrize(
    "settings",
    [
        {"OPENBLAS_NUM_THREADS": "2"},
        {"OPENBLAS_CORETYPE": "Nehalem"},
        {"OPENBLAS_CORETYPE": "Haswell"},
        {"NPY_DISABLE_CPU_FEATURES": " ".join(dispatched)},
    ],
    ids=lambda it: " ".join(it).lower() + " " + next(iter(it.values()))[:8],
)
def test_rules_give_the_same_bytes_with(settings: dict[str, str], usual: dict[str, str]) -> None:
    found = digests(**settings)
    assert len(found) == 3 * 18 + 1
    assert {name for name in usual if usual[name] != found[name]} <= {"product"}
