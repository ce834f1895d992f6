"""A fleet of boards on a network of their own, which has no way out, and the workstation's place in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.boards import cgroups
from tests.boards.board import RUN_S, Board, Done, checked
from tests.boards.host import BoardsError, cache, call, native
from tests.boards.image import USER

WORKSTATION = "10.77.0.1"
NETWORK = "10.77.0.{}/24"
FIRST = 11
UNMOUNT_S = 10.0
#: A name ends up in that of a network interface, which has 15 characters.
NAME = re.compile(r"[a-z][a-z0-9-]{0,11}")
FLEET = re.compile(r"[a-z][a-z0-9]{0,11}")
NSPAWN = Path("/run/systemd/nspawn")


class Boards:
    """A fleet; a context manager that takes it down.

    Args:
        names: Of the boards; their addresses are 10.77.0.11 and so on.
        image: Root file system that they begin with.
        fleet: Name, one word; two fleets with different names know nothing of each other.
        arch: Debian's name of their architecture, which is the image's.
        attached: They go off when this process ends, however it ends.

    Attributes:
        key: Private SSH key of the user `ops`.
        known_hosts: The boards' SSH keys, by name and address.
        namespace: Network namespace of the workstation.

    Raises:
        BoardsError: A name cannot be one.
    """

    user = USER

    def __init__(
        self, names: Sequence[str], image: Path, fleet: str, arch: str | None = None, attached: bool = True
    ) -> None:
        for name in names:
            if not NAME.fullmatch(name):
                raise BoardsError(f"a board cannot be {name!r}: at most 12 of a-z, 0-9, -, the first a letter")
        if not FLEET.fullmatch(fleet):
            raise BoardsError(f"a fleet cannot be {fleet!r}: at most 12 of a-z, 0-9, the first a letter")
        self.fleet = fleet
        self.image = image
        self.arch = arch or native()
        self.folder = fleets() / fleet
        self.key = self.folder / "id_ed25519"
        self.known_hosts = self.folder / "known_hosts"
        self.namespace = f"boards-{fleet}"
        self._attached = attached
        self._lock: IO[str] | None = None
        self._boards = {
            name: Board(
                name=name,
                address=NETWORK.format(FIRST + index).split("/")[0],
                fleet=fleet,
                arch=self.arch,
                folder=self.folder / name,
                namespace=self.namespace,
                ssh_options=self.ssh_options,
                attached=attached,
            )
            for index, name in enumerate(names)
        }

    @classmethod
    def running(cls, fleet: str) -> Boards:
        """The fleet that another process has brought up.

        Raises:
            BoardsError: There is none of that name.
        """
        try:
            it = json.loads((fleets() / fleet / "fleet.json").read_text())
        except FileNotFoundError:
            there = ", ".join(sorted(file.parent.name for file in fleets().glob("*/fleet.json"))) or "none"
            raise BoardsError(f"there is no fleet {fleet!r}; fleets: {there}") from None
        return cls(it["names"], Path(it["image"]), fleet, it["arch"], attached=False)

    @property
    def ssh_options(self) -> tuple[str, ...]:
        """Of `ssh` (or for Ansible's `ssh_args`): this fleet's keys, and nothing of this machine's configuration."""
        return (
            "-F", "none", "-i", str(self.key), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
            "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "GlobalKnownHostsFile=none",
            "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR",
        )  # fmt: skip

    def __getitem__(self, name: str) -> Board:
        """The board of that name."""
        if name not in self._boards:
            raise BoardsError(f"there is no board {name!r}; boards: {', '.join(self._boards)}")
        return self._boards[name]

    def __iter__(self) -> Iterator[Board]:
        """In the order of their names' first mention."""
        return iter(self._boards.values())

    def __len__(self) -> int:
        """How many."""
        return len(self._boards)

    def __enter__(self) -> Boards:
        """Bring it up."""
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Take it down."""
        self.down()

    # all of them

    def up(self) -> None:
        """Boot blank boards; what an earlier process has left of a fleet of that name goes first.

        Raises:
            BoardsError: Another process has a fleet of that name, or a board does not come up.
        """
        self.lock()
        self._clear()
        self.folder.mkdir(parents=True)
        description = {"names": list(self._boards), "image": str(self.image), "arch": self.arch}
        (self.folder / "fleet.json").write_text(json.dumps(description))
        if self._attached:
            (self.folder / "attached").touch()
        call(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", USER, "-f", self.key])
        self._make_network()
        for board in self:
            self._make(board)
        for board in self:
            board.boot(wait=False)
        for board in self:
            board.wait_for_ssh()

    def down(self) -> None:
        """Cut the power of all and remove every trace, whatever state they are in.

        Raises:
            BoardsError: Another process has a fleet of that name, or something cannot be removed.
        """
        self.lock()
        self._clear()
        self.unlock()

    def lock(self) -> None:
        """Claim the fleet's name; harmless when this object has it.

        Raises:
            BoardsError: Another process has it.
        """
        if self._lock is not None:
            return
        fleets().mkdir(parents=True, exist_ok=True)
        file = (fleets() / f"{self.fleet}.lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise BoardsError(f"another process has the fleet {self.fleet!r}: take another name") from None
        self._lock = file

    def unlock(self) -> None:
        """Let another process have the name."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def run(
        self,
        command: Sequence[str | Path],
        check: bool = True,
        timeout_s: float = RUN_S,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a command of the workstation: on this machine, but with the boards' network (only) and their names.

        Raises:
            BoardsError: It ends with another code than 0 and `check`.
        """
        words = [str(word) for word in command]
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
        )
        return checked(done, "workstation", " ".join(words), check)

    # parts

    @property
    def _hosts(self) -> str:
        lines = ["127.0.0.1 localhost", f"{WORKSTATION} workstation"]
        return "\n".join(lines + [f"{board.address} {board.name}" for board in self]) + "\n"

    def _make_network(self) -> None:
        # `ip netns exec` shows the command this file as /etc/hosts.
        hosts = Path("/etc/netns") / self.namespace / "hosts"
        hosts.parent.mkdir(parents=True, exist_ok=True)
        hosts.write_text(self._hosts)
        here = ["ip", "-n", self.namespace]
        call(["ip", "netns", "add", self.namespace])
        call([*here, "link", "set", "lo", "up"])
        call([*here, "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0"])
        call([*here, "addr", "add", NETWORK.format(1), "dev", "br0"])
        call([*here, "link", "set", "br0", "up"])

    def _make(self, board: Board) -> None:
        call(["ip", "netns", "add", board.network])
        here, there = ["ip", "-n", self.namespace], ["ip", "-n", board.network]
        call([*there, "link", "set", "lo", "up"])
        call([*here, "link", "add", board.cable, "type", "veth", "peer", "name", "eth0", "netns", board.network])
        call([*here, "link", "set", board.cable, "master", "br0", "up"])
        call([*there, "addr", "add", f"{board.address}/24", "dev", "eth0"])
        call([*there, "link", "set", "eth0", "up"])
        for name in ("root", "upper", "work"):
            (board.folder / name).mkdir(parents=True)
        # Volatile: nothing waits for this machine's disk, because nobody needs a board's after a crash of this machine.
        layers = f"lowerdir={self.image},upperdir={board.folder}/upper,workdir={board.folder}/work,volatile"
        call(["mount", "-t", "overlay", "overlay", "-o", layers, board.root])
        (board.root / "etc/hostname").write_text(f"{board.name}\n")
        (board.root / "etc/hosts").write_text(self._hosts)
        host_key = board.root / "etc/ssh/ssh_host_ed25519_key"
        call(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", board.name, "-f", host_key])
        with self.known_hosts.open("a") as file:
            file.write(f"{board.name},{board.address} {host_key.with_suffix('.pub').read_text()}")
        keys = board.root / f"home/{USER}/.ssh/authorized_keys"
        keys.write_text(self.key.with_suffix(".pub").read_text())
        home = keys.parent.stat()
        os.chown(keys, home.st_uid, home.st_gid)

    def _clear(self) -> None:
        cgroups.kill(self.fleet)
        for board in self:
            board.power_cut()
        for mount in mounts_below(self.folder):
            of = mount.stat()
            (NSPAWN / f"locks/inode-{of.st_dev}:{of.st_ino}").unlink(missing_ok=True)
            _unmount(mount)
        for file in Path("/run/netns").glob("*"):
            if file.name == self.namespace or file.name.startswith(f"{self.namespace}."):
                call(["ip", "netns", "del", file.name])
        shutil.rmtree(Path("/etc/netns") / self.namespace, ignore_errors=True)
        for left in NSPAWN.glob(f"*/{self.fleet}-*"):
            shutil.rmtree(left, ignore_errors=True)
        cgroups.remove(self.fleet)
        if self.folder.exists():
            shutil.rmtree(self.folder)


def fleets() -> Path:
    """The folder with a folder for each fleet."""
    return cache() / "fleets"


def sweep() -> None:
    """Remove the fleets of processes that have ended without doing so; not those that were brought up to stay."""
    for file in fleets().glob("*/attached"):
        with contextlib.suppress(BoardsError):
            Boards.running(file.parent.name).down()


def mounts_below(folder: Path) -> list[Path]:
    """Mount points there, the innermost first."""
    found = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(point) for point in sorted(found, reverse=True) if point.startswith(f"{folder}/")]


def _unmount(point: Path) -> None:
    end_s = time.monotonic() + UNMOUNT_S
    while True:
        try:
            call(["umount", point])
        except BoardsError:
            # The kernel lets go of a dead process's files a little after the process.
            if time.monotonic() > end_s:
                raise
            time.sleep(0.1)
        else:
            return
