"""One board: its disk, its power, its cable, and ways into it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.boards import cgroups
from tests.boards.emulator import SIGNALS_KEPT
from tests.boards.host import BoardsError, call, native
from tests.boards.image import USER

BOOT_S = 60.0
HALT_S = 60.0
RUN_S = 600.0
#: Under emulation everything takes that much longer.
EMULATED = 5.0
POLL_S = 0.1
#: systemd(1): signals to process 1 that begin an orderly end.
POWER_OFF = signal.SIGRTMIN + 4
REBOOT = signal.SIGRTMIN + 5
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")

Done = subprocess.CompletedProcess[str]


def checked(done: Done, where: str, words: str, check: bool) -> Done:
    """The result of a command, which must be 0 if `check`.

    Raises:
        BoardsError: It is not; quotes the ends of its outputs.
    """
    if check and done.returncode != 0:
        raise BoardsError(
            f"{where}: {words[:500]}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}".rstrip()
        )
    return done


@dataclass
class Board:
    """One board; made by `Boards`.

    Attributes:
        name: Its host name.
        address: IPv4, in the fleet's network.
        fleet: Name of the fleet.
        arch: Debian's name of its architecture.
        folder: With `root`, its disk (a mounted overlay of the image), and `console.log`.
        namespace: The network namespace of the fleet, where the workstation's tools run.
        ssh_options: That make `ssh` know the board and itself.
        attached: Goes off when this process ends, however it ends.
    """

    name: str
    address: str
    fleet: str
    arch: str
    folder: Path
    namespace: str
    ssh_options: tuple[str, ...]
    attached: bool
    _power: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def root(self) -> Path:
        """Its file system, as seen from this machine; also while it is off."""
        return self.folder / "root"

    @property
    def cable(self) -> str:
        """The network interface at the bridge's end of its cable."""
        return f"ve-{self.name}"

    @property
    def group(self) -> str:
        """Of all its processes, and its power supply's."""
        return f"{self.fleet}/{self.name}"

    @property
    def network(self) -> str:
        """Its network namespace, which stays while it is off."""
        return f"{self.namespace}.{self.name}"

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return cgroups.is_populated(self.group)

    @property
    def patience(self) -> float:
        """How much longer than on this machine itself things may take."""
        return 1.0 if self.arch == native() else EMULATED

    # power

    def boot(self, wait: bool = True) -> None:
        """Switch it on, and wait until the user can log in; harmless when it is on.

        From the main thread if `attached`, because the kernel counts a thread's end as its process's.

        Raises:
            BoardsError: Nobody can log in after a minute; quotes its console.
        """
        if not self.is_on:
            self._switch_on()
        if wait:
            self.wait_for_ssh()

    def _switch_on(self) -> None:
        self._reap()
        cgroups.make(self.group)
        halt = 3 + (0 if self.arch == native() else SIGNALS_KEPT)
        nspawn = [
            "systemd-nspawn", "--quiet", "--settings=no", f"--directory={self.root}", "--boot",
            f"--machine={self.fleet}-{self.name}", f"--hostname={self.name}", "--register=no", "--keep-unit",
            "--link-journal=no", "--resolv-conf=off", "--timezone=off", f"--kill-signal=SIGRTMIN+{halt}",
            # For what systemd does to units with BPF, such as IPAddressDeny=.
            "--capability=CAP_BPF", "--system-call-filter=bpf",
            f"--network-namespace-path=/run/netns/{self.network}",
        ]  # fmt: skip
        groups = " ".join(str(folder) for folder in cgroups.folders(self.group))
        command = [str(Path(__file__).with_name("power.sh")), groups, *nspawn]
        if self.attached:
            command = ["setpriv", "--pdeathsig", "TERM", *command]
        with (self.folder / "console.log").open("ab") as log:
            self._power = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ.get("PATH", ""), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                start_new_session=True,
            )
        end_s = time.monotonic() + BOOT_S
        while not (self.is_on and self.leader()):
            if self._power.poll() is not None or time.monotonic() > end_s:
                raise BoardsError(f"{self.name} does not start: {self.console()}")
            time.sleep(POLL_S / 5)

    def halt(self) -> None:
        """Shut it down in order; harmless when it is off.

        Raises:
            BoardsError: It does not end.
        """
        leader = self.leader()
        if leader:
            self._signal(leader, POWER_OFF)
            self._wait_off()

    def reboot(self, wait: bool = True) -> None:
        """Restart it in order, and wait until the user can log in.

        Raises:
            BoardsError: It is off, or does not come back.
        """
        leader = self.leader()
        if not leader:
            raise BoardsError(f"{self.name} is off: boot() it")
        self._signal(leader, REBOOT)
        self.wait_rebooted(leader)
        if wait:
            self.wait_for_ssh()

    def wait_rebooted(self, leader: int) -> None:
        """Until it has rebooted since `leader()` was that, by whomever it was told to.

        Raises:
            BoardsError: It does not.
        """
        end_s = time.monotonic() + HALT_S * self.patience
        while self.leader() in {leader, 0}:
            if time.monotonic() > end_s:
                raise BoardsError(f"{self.name} does not reboot: {self.console()}")
            time.sleep(POLL_S / 5)

    def power_cut(self) -> None:
        """All its processes end at once, and none is told.

        What they have written is on the disk, with or without fsync: the kernel lives on.
        """
        cgroups.kill(self.group)
        self._reap()

    def _signal(self, leader: int, number: int) -> None:
        os.kill(leader, number if self.arch == native() else number + SIGNALS_KEPT)

    def _wait_off(self) -> None:
        try:
            cgroups.wait_empty(self.group, HALT_S * self.patience)
        except BoardsError as error:
            raise BoardsError(f"{error}: {self.console()}") from error
        self._reap()

    def _reap(self) -> None:
        if self._power is not None:
            self._power.wait()
            self._power = None

    def leader(self) -> int:
        """Its process 1 by this machine's count, or 0."""
        for process in cgroups.processes(f"{self.group}/machine"):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process}/status").read_text().splitlines():
                    if line.startswith("NSpid:") and line.split()[2:] == ["1"]:
                        return process
        return 0

    # cable

    def cut(self) -> None:
        """Pull its network cable: the board sees no carrier."""
        call(["ip", "-n", self.namespace, "link", "set", self.cable, "down"])

    def heal(self) -> None:
        """Plug it in again."""
        call(["ip", "-n", self.namespace, "link", "set", self.cable, "up"])

    def drop(self, percent: int) -> None:
        """Lose that share of what it sends and of what it is sent, without it seeing why; 0: lose nothing.

        Raises:
            BoardsError: It is no share.
        """
        if not 0 <= percent <= 100:
            raise BoardsError(f"{percent} % of the packets cannot be lost: 0 to 100")
        here = ["ip", "netns", "exec", self.namespace, "nft"]
        call([*here, "delete", "table", "netdev", f"drop-{self.name}"], check=False)
        if percent:
            hooks = "\n".join(
                f'chain {hook} {{ type filter hook {hook} device "{self.cable}" priority 0; '
                f"numgen random mod 100 <= {percent - 1} drop; }}"
                for hook in ("ingress", "egress")
            )
            call([*here, "-f", "-"], stdin=f"table netdev drop-{self.name} {{\n{hooks}\n}}\n")

    # ways in

    def run(self, command: str, check: bool = True, timeout_s: float = RUN_S, stdin: str | None = None) -> Done:
        """Run a shell's command as the user, through SSH.

        Raises:
            BoardsError: It ends with another code than 0 and `check`.
        """
        words = ["ip", "netns", "exec", self.namespace, "ssh", *self.ssh_options, f"{USER}@{self.address}", command]
        return checked(_run(words, timeout_s, stdin), self.name, command, check)

    def execute(self, *command: str | Path, check: bool = True, timeout_s: float = RUN_S) -> Done:
        """Run a command as root, through no network.

        Raises:
            BoardsError: The board is off, or the command ends with another code than 0 and `check`.
        """
        leader = self.leader()
        if not leader:
            raise BoardsError(f"{self.name} is off: boot() it")
        arguments = [str(word) for word in command]
        words = ["nsenter", "--target", str(leader), "--all", "env", "-i", *ENVIRONMENT, *arguments]
        return checked(_run(words, timeout_s), self.name, shlex.join(arguments), check)

    def until(self, command: str, timeout_s: float = 60.0) -> str:
        """Repeat a shell's command as root until it ends with 0; returns its output.

        Raises:
            BoardsError: It never does; quotes the last outputs.
        """
        end_s = time.monotonic() + timeout_s * self.patience
        while (done := self.execute("sh", "-c", command, check=False)).returncode != 0:
            if time.monotonic() > end_s:
                checked(done, f"{self.name}, for {timeout_s * self.patience:.0f} s", command, check=True)
            time.sleep(POLL_S)
        return done.stdout

    def journal(self, *options: str) -> str:
        """What `journalctl` says; also while it is off."""
        journalctl = ["journalctl", "--no-pager", "--quiet", *options]
        if self.leader():
            return self.execute(*journalctl).stdout
        return call([*journalctl, f"--directory={self.root}/var/log/journal"])

    def console(self) -> str:
        """The end of what it has shown on its console."""
        log = self.folder / "console.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""

    def wait_for_ssh(self, timeout_s: float = BOOT_S) -> None:
        """Until the user can log in.

        Raises:
            BoardsError: Nobody can; quotes why and its console.
        """
        end_s = time.monotonic() + timeout_s * self.patience
        while (done := self.run("true", check=False, timeout_s=timeout_s)).returncode != 0:
            if time.monotonic() > end_s:
                raise BoardsError(f"{self.name}: no login: {done.stderr.strip()}; console: {self.console()}")
            time.sleep(POLL_S)


def _run(words: Sequence[str], timeout_s: float, stdin: str | None = None) -> Done:
    return subprocess.run(
        words, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", check=False, timeout=timeout_s,
    )  # fmt: skip
