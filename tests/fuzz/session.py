"""Fuzzing several targets at a time, each in a process of its own that libFuzzer drives."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.target import CORPUS, load

#: A process with more, or an input that takes longer, is a finding. Far from what any takes: machines may be busy.
RSS_MB = 1024
HANG_S = 60
LINES_KEPT = 60
PROGRESS = re.compile(r"^#(\d+)\s.*\bcov: (\d+) .*\bcorp: (\d+)")
RATE = re.compile(r"\bexec/s: (\d+)")


@dataclass
class Result:
    """What has come of a target.

    Attributes:
        inputs: Run so far.
        edges: Of the product's bytecode that they reach.
        corpus: Inputs that were worth keeping.
        findings: Files of the inputs that failed.
        report: What was wrong, or the last lines of a process that ended as it should not.
    """

    target: str
    inputs: int = 0
    rate: int = 0
    edges: int = 0
    corpus: int = 0
    findings: list[Path] = field(default_factory=list)
    report: str = ""
    done: bool = False
    failed: bool = False

    def row(self) -> str:
        """One line."""
        found = str(len(self.findings)) if self.findings or not self.failed else "broke down"
        return f"{self.target:16} {self.inputs:10,} {self.rate:9,} {self.edges:6,} {self.corpus:7,}  {found}"


def unsupported() -> str:
    """Why there is no fuzzing here; empty: there is."""
    if importlib.util.find_spec("atheris") is None:
        version = ".".join(map(str, sys.version_info[:2]))
        return f"atheris is not installed (it has wheels for Python 3.11 to 3.13 on x86-64; this is {version})"
    return ""


def dictionary(words: tuple[bytes, ...], path: Path) -> Path:
    """A file as libFuzzer reads it."""
    path.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in words))
    return path


def fuzz(
    chosen: list[str], seconds: int, grown: Path, jobs: int, seed: int, say: Callable[[Result], None]
) -> list[Result]:
    """Fuzz the targets, so many at a time; what they find stays in `grown`."""
    results = [Result(name) for name in chosen]
    waiting = list(results)
    failed: list[BaseException] = []
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                result = waiting.pop(0)
            try:
                process = _start(result, seconds, grown, seed or secrets.randbelow(2**31 - 1) + 1)
                with lock:
                    processes.append(process)
                _follow(result, process, grown, say, lock)
            except BaseException as error:  # noqa: BLE001 - told where it is seen
                failed.append(error)
                return

    processes: list[subprocess.Popen[str]] = []
    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        with lock:
            waiting.clear()
            for process in processes:
                if process.poll() is None:
                    process.kill()
    if failed:
        raise failed[0]
    return results


def _start(result: Result, seconds: int, grown: Path, seed: int) -> subprocess.Popen[str]:
    target = load(result.target)
    folder = grown / result.target
    kept, findings = folder / "corpus", folder / "findings"
    for it in (kept, findings):
        it.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.engine", result.target]
    command += [f"-max_total_time={seconds}", f"-max_len={target.length_max}", f"-rss_limit_mb={RSS_MB}"]
    command += [f"-timeout={HANG_S}", f"-artifact_prefix={findings}/", f"-seed={seed}", "-len_control=10"]
    if target.words:
        command.append(f"-dict={dictionary(target.words, folder / 'dictionary')}")
    command += [str(kept), *([str(CORPUS / result.target)] if (CORPUS / result.target).is_dir() else [])]
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        command,
        cwd=Path.cwd(),
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        # The traceback goes to the one, and all else to the other.
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _follow(
    result: Result,
    process: subprocess.Popen[str],
    grown: Path,
    say: Callable[[Result], None],
    lock: threading.Lock,
) -> None:
    before = set((grown / result.target / "findings").iterdir())
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        match = PROGRESS.match(line)
        if match is None:
            lines = [*lines[1 - LINES_KEPT :], line]
            continue
        result.inputs, result.edges, result.corpus = map(int, match.groups())
        rate = RATE.search(line)
        result.rate = int(rate[1]) if rate else result.rate
        if "pulse" in line:
            with lock:
                say(result)
    # Also where it ends in peace without having begun.
    result.failed = process.wait() != 0 or result.inputs == 0
    result.done = True
    if result.failed:
        found = set((grown / result.target / "findings").iterdir()) - before
        result.findings = sorted(found)
        result.report = "".join(lines).strip()
    with lock:
        say(result)
