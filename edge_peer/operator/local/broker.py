"""A Mosquitto of its own on a free loopback port, configured and logging in a folder: for demo, tests and bench."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edge_peer.errors import BrokerError, ResourceError
from edge_peer.operator.dashboard.site import LISTENER, write_site
from edge_peer.operator.local import processes
from edge_peer.operator.local.debian import require_program, sudo

HOST = "127.0.0.1"
START_S = 10.0
#: Folder beside the broker's configuration with the live page, where there is one.
DASHBOARD = "dashboard"
#: A change of user would take away the kernel's promise to end it with its parent.
STAY_ROOT = "user root\n"
#: A free port can be taken by somebody else before Mosquitto has it.
PORTS_TRIED = 5
#: So many of the largest messages may wait for a client.
QUEUED_PACKETS = 4
CONFIGURATION = """# Written by edge_peer.operator.local.broker: loopback only, nothing kept on disk.
listener {port} {host}
allow_anonymous true
persistence false
{user}# Largest message: the model and its envelope.
max_packet_size {packet_bytes_max}
# What it may hold for a client that reads slowly or not at all: sent and not acknowledged, and waiting behind that.
max_inflight_messages 1000
max_inflight_bytes {packet_bytes_max}
max_queued_messages 10000
max_queued_bytes {queued_bytes_max}
# Else a message of QoS 0 would be bound by neither.
upgrade_outgoing_qos true
# Small documents must not wait for each other.
set_tcp_nodelay true
"""


def find_mosquitto() -> str | None:
    """The program; Debian has it in a folder that is not on every user's path."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def require_mosquitto(say: Callable[[str], None]) -> str:
    """The program, installed from the distribution if it is missing.

    Raises:
        ResourceError: It is not there and cannot be installed; says what to do.
    """
    program, installed = require_program(find_mosquitto, "mosquitto", say)
    if installed:
        _disable_service()
    return program


def _disable_service() -> None:
    """The package starts a broker on port 1883, which nobody has asked for."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(  # noqa: S603 - the command is ours
            [*sudo(), "systemctl", "disable", "--now", "mosquitto"], capture_output=True, check=False
        )


class LocalBroker:
    """One Mosquitto process.

    Args:
        folder: For `mosquitto.conf` and `mosquitto.log`.
        program: Path of Mosquitto.
        packet_bytes_max: Largest message that it takes.
        more: Further lines of its configuration.
        dashboard: The federation whose live page it also serves, to be read only; None: no page.
    """

    def __init__(
        self,
        folder: Path,
        program: str,
        packet_bytes_max: int = 16 * 1024 * 1024,
        more: str = "",
        dashboard: str | None = None,
    ) -> None:
        self._folder = folder
        self._program = program
        self._packet_bytes_max = packet_bytes_max
        self._more = more
        self._dashboard = dashboard
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        #: Of the live page; 0: there is none.
        self.page_port = 0

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, on the port that it had before if it has been started before, and wait until it answers.

        Raises:
            BrokerError: It does not come up; quotes its log.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        again = self.port != 0
        for _ in range(1 if again else PORTS_TRIED):
            if not again:
                self.port = free_port()
                self.page_port = free_port() if self._dashboard is not None else 0
            configuration = self._folder / "mosquitto.conf"
            configuration.write_text(self._configuration())
            log = self._folder / "mosquitto.log"
            self._process = processes.start([self._program, "-c", str(configuration)], log)
            if self._answers(self._process):
                return
            processes.stop([self._process])
        raise BrokerError(f"mosquitto does not start: {log.read_text(errors='replace').strip()[-500:]}")

    def _configuration(self) -> str:
        own = CONFIGURATION.format(
            port=self.port,
            host=HOST,
            user=STAY_ROOT if os.geteuid() == 0 else "",
            packet_bytes_max=self._packet_bytes_max,
            queued_bytes_max=QUEUED_PACKETS * self._packet_bytes_max,
        )
        if self._dashboard is None:
            return own + self._more
        site = self._folder.resolve() / DASHBOARD
        write_site(site, self._dashboard)
        page = LISTENER.format(port=self.page_port, host=HOST, folder=site)
        # Who reads the page may write nothing; whoever comes by the other listener may.
        return f"per_listener_settings true\n{own}{self._more}{page}"

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        end_s = time.monotonic() + START_S
        ports = [port for port in (self.port, self.page_port) if port]
        while time.monotonic() < end_s:
            try:
                while ports:
                    socket.create_connection((HOST, ports[0]), timeout=1).close()
                    ports.pop(0)
            except OSError:
                # Wait for its end, which would settle the question; not for a time.
                try:
                    process.wait(0.01)
                except subprocess.TimeoutExpired:
                    continue
                return False
            return process.poll() is None
        return False

    def kill(self) -> None:
        """SIGKILL: what it had in memory is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it; harmless when it has ended."""
        if self._process is not None:
            processes.stop([self._process])
            self._process = None


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as it:
        it.bind((HOST, 0))
        port: int = it.getsockname()[1]
        return port


def main() -> int:
    """`python -m edge_peer.operator.local.broker`: install Mosquitto if it is missing; returns the exit code."""
    try:
        require_mosquitto(print)
    except ResourceError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
