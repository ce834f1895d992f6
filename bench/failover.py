"""How long a federation is without a controller: `python -m bench.failover`.

Killed: SIGKILL of the controller in the middle of a round; its socket closes and the broker publishes its will. Power
cut: its process is stopped (SIGSTOP), so that nothing closes the socket; the broker notices after one and a half
keepalives. Measured until another peer's first round document of the same run has arrived here.
"""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path

from bench.federation import federation, shards
from bench.tables import report, spread
from tests.live.harness import Live

TRIES = 7
KEEPALIVE_S = 2


def failover_s(live: Live, sent: signal.Signals) -> float:
    """One death of the present controller; it is started again, or woken up, afterwards."""
    before = live.wait(
        lambda it: it is not None and it.state == "training" and len(it.participants) == len(live.peers), "all train"
    )
    victim = live.federation.controller
    assert victim is not None
    started = time.monotonic()
    live.fleet.processes[victim].send_signal(sent)
    after = live.wait(lambda it: it is not None and it.run_id is not None and it.term > before.term, "the next one")
    took = time.monotonic() - started
    assert after.run_id == before.run_id
    if sent == signal.SIGSTOP:
        live.fleet.processes[victim].send_signal(signal.SIGCONT)
    else:
        live.fleet.processes[victim].wait()
        live.start(victim)
    return took


def main() -> None:
    """Measure and report."""
    common = {
        "run": {"rounds_max": 1_000_000},
        "broker": {"keepalive_s": KEEPALIVE_S},
        # The default: one and a half keepalives, after which Mosquitto, too, takes a silent client for gone.
        "timing": {"lease_s": 1.5 * KEEPALIVE_S},
    }
    with tempfile.TemporaryDirectory() as name, federation(shards(Path(name), 4, 320, 100), 4, common) as live:
        live.start()
        killed = [failover_s(live, signal.SIGKILL) * 1e3 for _ in range(TRIES)]
        cut = [failover_s(live, signal.SIGSTOP) * 1e3 for _ in range(3)]
    report(
        "failover",
        "From the controller's death to the next controller's first round document, 4 peers on loopback",
        [
            {"death": "SIGKILL", "ms": spread(killed, 0), "target ms": "500"},
            {
                "death": f"silence, keepalive {KEEPALIVE_S} s",
                "ms": spread(cut, 0),
                "target ms": 1500 * KEEPALIVE_S + 500,
            },
        ],
    )


if __name__ == "__main__":
    main()
