"""A peer whose training stands still before a batch while somebody else holds a pipe: `python -m tests.live.hanging`.

It waits in a system call, as for a disk that does not answer. All else is the daemon as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_peer.__main__ import main
from edge_peer.shell import daemon


class Hanging:
    """The backend, held up by a pipe."""

    def __init__(self, trainer: Any, pipe: Path) -> None:
        self.evaluate, self.evaluate_int8 = trainer.evaluate, trainer.evaluate_int8
        self.runtime = trainer.runtime
        self._trainer = trainer
        self._pipe = pipe

    def train(self, *arguments: Any, cancelled: Callable[[], bool], **given: Any) -> Any:
        def wait_in_the_kernel() -> bool:
            answer = cancelled()
            if self._pipe.exists():
                # Until somebody opens it for writing, and closes it.
                self._pipe.read_bytes()
            return answer

        return self._trainer.train(*arguments, cancelled=wait_in_the_kernel, **given)


if __name__ == "__main__":
    make = daemon.make_trainer
    daemon.make_trainer = lambda *given: Hanging(make(*given), Path(sys.argv[2]))  # type: ignore[assignment]
    raise SystemExit(main(["run", "--config", sys.argv[1]]))
