"""Boards for people: `python -m tests.boards up` (as root), then the commands of a board until `down`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from tests.boards.boards import Boards, fleets, sweep
from tests.boards.host import BoardsError, native, require
from tests.boards.image import USER, image

PLAIN = ("boot", "halt", "reboot", "powercut", "cut", "heal")
#: Exit code of `able` when this machine cannot carry boards.
UNABLE = 3


def main() -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.boards", description=__doc__)
    parser.add_argument("--fleet", default="fleet", help="name of the fleet (default: fleet)")
    parser.add_argument(
        "--arch", default=os.environ.get("ARCH") or native(), help="amd64 or arm64, for able, image and up"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("able", help=f"boot a board and remove it; exit code {UNABLE} if this machine cannot, and why")
    commands.add_parser("image", help="build the image unless it is there, and say where")
    up = commands.add_parser("up", help="boot blank boards, which stay until `down`")
    up.add_argument("names", nargs="*", default=["board1", "board2", "board3", "board4"])
    commands.add_parser("down", help="take them down and remove all that they were")
    commands.add_parser("status", help="which boards there are, and whether they are on")
    for name in PLAIN:
        commands.add_parser(name).add_argument("board")
    drop = commands.add_parser("drop", help="lose a share of a board's packets")
    drop.add_argument("board")
    drop.add_argument("percent", type=int)
    for name, text in (
        ("ssh", "log in, or run a command as the user"),
        ("exec", "run a command as root, without network"),
    ):
        inside = commands.add_parser(name, help=text)
        inside.add_argument("board")
        inside.add_argument("words", nargs=argparse.REMAINDER)
    run = commands.add_parser("run", help="run a command on the boards' network, such as `ssh` or `ansible-playbook`")
    run.add_argument("words", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        return _do(arguments)
    except BoardsError as error:
        print(error, file=sys.stderr)
        return 1


def _do(arguments: argparse.Namespace) -> int:
    command = arguments.command
    if command == "able":
        return _able(arguments.arch)
    if command in {"image", "up"}:
        require(arguments.arch, print)
        folder = image(arguments.arch, print)
        print(folder)
        if command == "up":
            _up(Boards(arguments.names, folder, arguments.fleet, arguments.arch, attached=False))
        return 0
    if os.geteuid() != 0:
        raise BoardsError("boards need root: sudo")
    boards = Boards.running(arguments.fleet)
    if command == "down":
        boards.down()
    elif command == "status":
        for board in boards:
            print(f"{board.name:12} {board.address:12} {board.arch:6} {'on' if board.is_on else 'off'}")
    elif command in PLAIN:
        getattr(boards[arguments.board], {"powercut": "power_cut"}.get(command, command))()
    elif command == "drop":
        boards[arguments.board].drop(arguments.percent)
    elif command == "exec":
        done = boards[arguments.board].execute(*arguments.words, check=False)
        print(done.stdout, end="")
        print(done.stderr, end="", file=sys.stderr)
        return done.returncode
    else:
        words = list(arguments.words)
        if command == "ssh":
            words = ["ssh", *boards.ssh_options, f"{USER}@{boards[arguments.board].address}", *words]
        os.execvp("ip", ["ip", "netns", "exec", boards.namespace, *words])
    return 0


def _able(arch: str) -> int:
    try:
        require(arch, print)
        sweep()
        with Boards(["board1"], image(arch, print), f"able{os.getpid()}"[:12], arch) as boards:
            pass
        # The name is nobody's again.
        (fleets() / f"{boards.fleet}.lock").unlink(missing_ok=True)
    except (BoardsError, OSError, subprocess.SubprocessError) as error:
        print(f"this machine cannot carry boards: {error}", file=sys.stderr)
        return UNABLE
    return 0


def _up(boards: Boards) -> None:
    start_s = time.monotonic()
    if (boards.folder / "fleet.json").exists():
        raise BoardsError(f"the fleet {boards.fleet!r} is there already; `down` removes it")
    boards.up()
    names = ", ".join(board.name for board in boards)
    print(f"{len(boards)} boards booted in {time.monotonic() - start_s:.1f} s: {names}")
    print(f"log in: python -m tests.boards --fleet {boards.fleet} ssh {next(iter(boards)).name}")


if __name__ == "__main__":
    raise SystemExit(main())
