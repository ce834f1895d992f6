"""What the boards are, so that a test with them says something about a real one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.boards import cgroups
from tests.boards.board import Board
from tests.boards.boards import WORKSTATION, Boards, mounts_below
from tests.boards.host import BoardsError, native

BOARDS = ("board1", "board2")
#: Says that it is ready, and then nothing more.
HANGS = """import os, signal, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as it:
    it.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""
LISTENS = """import socket
with socket.create_server(("0.0.0.0", 7000)) as server:
    print("listening", flush=True)
    while True:
        server.accept()[0].sendall(b"heard")
"""
SPEAKS = "import socket; print(socket.create_connection(('board2', 7000), 2).recv(9).decode())"


@pytest.fixture
def board(boards: Boards) -> Board:
    """The first board, on and with its cable plugged in."""
    it = boards["board1"]
    it.boot()
    return it


def facts(board: Board, unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit."""
    text = board.execute("systemctl", "show", unit, *(f"--property={name}" for name in names)).stdout
    return dict(line.split("=", 1) for line in text.splitlines())


def test_a_board_boots_whole_and_its_user_is_an_administrator(board: Board, arch: str) -> None:
    board.until("systemctl is-system-running | grep -q running")
    assert board.run("cat /proc/1/comm").stdout == "systemd\n"
    assert board.run("systemctl --failed --no-legend").stdout == ""
    assert board.run("hostname").stdout == "board1\n"
    assert board.run("id --user --name; sudo id --user --name").stdout == "ops\nroot\n"
    assert board.run("dpkg --print-architecture").stdout == f"{arch}\n"
    assert (
        board.run("python3 -c 'import platform; print(platform.machine())'").stdout.strip()
        == ({"amd64": "x86_64", "arm64": "aarch64"}[arch])
    )


def test_boards_are_alike_but_not_the_same(boards: Boards) -> None:
    for file in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub", "/proc/sys/kernel/random/boot_id"):
        assert len({board.execute("cat", file).stdout for board in boards}) == len(boards), file


def test_the_network_has_boards_and_workstation_and_no_way_out(boards: Boards) -> None:
    for board in boards:
        assert [line.split()[0] for line in board.run("ip -4 route").stdout.splitlines()] == ["10.77.0.0/24"]
        assert board.run("getent hosts board2 workstation").stdout.split()[::2] == ["10.77.0.12", WORKSTATION]
    assert len(boards.run(["ip", "-4", "route"]).stdout.splitlines()) == 1
    there = boards.run(["ssh", *boards.ssh_options, "ops@board2", "hostname"])
    assert there.stdout == "board2\n"


def test_packages_are_installed_without_a_network(board: Board) -> None:
    said = board.run("sudo apt-get update && sudo apt-get install --yes mosquitto mosquitto-clients python3-venv")
    assert "Err:" not in said.stdout
    assert board.run("systemctl is-active mosquitto").stdout == "active\n"
    board.run("python3 -m venv /tmp/venv && /tmp/venv/bin/pip --version")
    assert board.run("mosquitto_sub -t it -C 1 -W 30 & mosquitto_pub -r -t it -m is; wait").stdout == "is\n"


def test_a_service_that_hangs_is_killed_by_its_watchdog(board: Board) -> None:
    service = ["systemd-run", "--wait", "--unit=hangs", "--property=Type=notify", "--property=WatchdogSec=1s"]
    done = board.execute(*service, "python3", "-c", HANGS, check=False)
    assert done.returncode != 0
    assert "result: watchdog" in done.stderr
    assert "Watchdog timeout" in board.journal("--unit=hangs")


def test_a_service_is_restarted(board: Board) -> None:
    options = ["--unit=again", "--property=Restart=on-failure", "--property=RestartSec=100ms"]
    board.execute("systemd-run", *options, "python3", "-c", "import signal; signal.pause()")
    first = facts(board, "again", "MainPID")["MainPID"]
    board.execute("kill", "-KILL", first)
    board.until("test $(systemctl show --value --property=NRestarts again) = 1 && systemctl is-active again")
    assert facts(board, "again", "MainPID")["MainPID"] not in {first, "0"}
    board.execute("systemctl", "stop", "again")


def test_a_service_is_confined(board: Board) -> None:
    def runs(command: str, *properties: str) -> bool:
        options = [f"--property={it}" for it in properties]
        return board.execute("systemd-run", "--wait", *options, "sh", "-c", command, check=False).returncode == 0

    for command, confined in (
        ("touch /usr/it", "ProtectSystem=strict"),
        ("ls /home/ops", "ProtectHome=yes"),
        ("test $(id --user) = 0", "DynamicUser=yes"),
        ("chown ops /tmp", "CapabilityBoundingSet="),
        ("mkdir /tmp/it; mount -t tmpfs none /tmp/it", "SystemCallFilter=~@mount"),
        ("python3 -c 'import socket; socket.socket()'", "RestrictAddressFamilies=AF_UNIX"),
        (
            f"python3 -c 'import socket; socket.create_connection((\"{WORKSTATION}\", 7), 2)' 2>&1 | grep refused",
            "PrivateNetwork=yes",
        ),
    ):
        assert runs(command), command
        # Filters of system calls are the kernel's, which qemu-user does not set for the programs that it runs.
        is_kept = board.arch == native() or not confined.startswith(("SystemCallFilter", "RestrictAddressFamilies"))
        assert runs(command, confined) != is_kept, confined


def test_exposure_of_a_service_is_told(board: Board) -> None:
    def exposure(unit: str, *properties: str) -> float:
        board.execute("systemd-run", f"--unit={unit}", *(f"--property={it}" for it in properties), "sleep", "1000")
        said = json.loads(board.execute("systemd-analyze", "security", "--json=short", unit).stdout)
        board.execute("systemctl", "stop", unit)
        return sum(float(it["exposure"]) for it in said if it["exposure"])

    bare = exposure("bare")
    assert exposure("strict", "NoNewPrivileges=yes", "PrivateTmp=yes", "CapabilityBoundingSet=") < bare


def test_a_limit_of_memory_is_kept_where_this_machine_can(board: Board) -> None:
    takes = ["python3", "-c", "it = bytearray(200_000_000); print('took it')"]
    limited = [
        "systemd-run",
        "--wait",
        "--pipe",
        "--unit=takes",
        "--property=MemoryMax=64M",
        "--property=MemorySwapMax=0",
    ]
    done = board.execute(*limited, *takes, check=False)
    controllers = board.execute("cat", "/sys/fs/cgroup/cgroup.controllers").stdout.split()
    if "memory" in controllers:
        assert done.returncode != 0
        assert "oom-kill" in done.stderr
    else:
        # Such as a Raspberry Pi without cgroup_enable=memory: systemd takes the limit, and goes on without it.
        assert done.stdout == "took it\n"


def test_halt_and_boot_keep_the_disk_and_the_journal(board: Board) -> None:
    board.run("echo kept > it; echo remember me | systemd-cat")
    before = board.run("cat /etc/machine-id").stdout
    board.halt()
    assert not board.is_on
    assert "remember me" in board.journal("--output=cat")
    assert "Reached target poweroff.target" in board.journal("--output=cat")
    board.boot()
    assert board.run("cat it /etc/machine-id").stdout == "kept\n" + before
    assert "remember me" in board.journal("--boot=-1", "--output=cat")


def test_a_reboot_starts_what_is_enabled(board: Board) -> None:
    unit = "[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n"
    board.run("sudo tee /etc/systemd/system/enabled.service", stdin=unit)
    board.run("sudo systemctl enable enabled")
    before = board.run("cat /proc/sys/kernel/random/boot_id").stdout
    board.reboot()
    assert board.run("cat /proc/sys/kernel/random/boot_id").stdout != before
    board.until("systemctl is-active enabled")
    # The administrator's way; the connection may end before the command.
    leader = board.leader()
    board.run("sudo systemctl reboot", check=False)
    board.wait_rebooted(leader)
    board.wait_for_ssh()
    board.until("systemctl is-active enabled")


def test_nothing_on_a_board_is_told_of_a_power_cut(board: Board) -> None:
    script = "trap 'echo told' TERM; echo waiting; while :; do sleep 0.1; done"
    board.execute("systemd-run", "--unit=waits", "sh", "-c", script)
    board.until("journalctl --unit=waits --output=cat | grep -qx waiting")
    board.power_cut()
    assert not board.is_on
    with pytest.raises(BoardsError, match="board1 is off"):
        board.execute("true")
    board.boot()
    said = board.journal("--unit=waits", "--boot=-1", "--output=cat", "_TRANSPORT=stdout")
    assert said == "waiting\n"
    assert "poweroff.target" not in board.journal("--boot=-1", "--output=cat")


def test_a_cut_cable_is_seen_by_both_ends_and_heals(boards: Boards, board: Board) -> None:
    other = boards["board2"]
    other.execute("systemd-run", "--unit=listens", "python3", "-u", "-c", LISTENS)
    other.until("journalctl --unit=listens --output=cat | grep -q listening")
    assert board.run(f'python3 -c "{SPEAKS}"').stdout == "heard\n"
    board.cut()
    board.until("ip link show eth0 | grep -q NO-CARRIER")
    assert board.execute("python3", "-c", SPEAKS, check=False).returncode != 0
    board.heal()
    board.until("ip link show eth0 | grep -q LOWER_UP")
    # The neighbour is unknown for a moment yet.
    assert board.until(f'python3 -c "{SPEAKS}"') == "heard\n"
    # Lost packets leave the carrier.
    board.drop(100)
    assert "LOWER_UP" in board.execute("ip", "link", "show", "eth0").stdout
    assert "timed out" in board.execute("python3", "-c", SPEAKS, check=False).stderr
    board.drop(0)
    assert board.until(f'python3 -c "{SPEAKS}"') == "heard\n"


def test_a_process_that_is_killed_takes_its_boards_with_it_and_the_next_removes_them(boards: Boards) -> None:
    name = "killed"
    code = f"""import signal
from pathlib import Path
from tests.boards.boards import Boards
boards = Boards(["one"], Path({str(boards.image)!r}), {name!r}, {boards.arch!r})
boards.up()
print("up", flush=True)
signal.pause()
"""
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            with pytest.raises(BoardsError, match="another process has the fleet 'killed'"):
                Boards([], boards.image, name).down()
            assert cgroups.is_populated(name)
        finally:
            process.kill()
    cgroups.wait_empty(name, 30)
    left = Boards.running(name)
    assert mounts_below(left.folder)
    with Boards(["two"], boards.image, name, boards.arch) as again:
        assert again["two"].run("hostname").stdout == "two\n"
    assert not left.folder.exists()
    assert not [it for it in Path("/run/netns").iterdir() if it.name.startswith(left.namespace)]
    assert not any(folder.exists() for folder in cgroups.folders(name))


def test_a_name_that_is_none_is_refused(boards: Boards) -> None:
    with pytest.raises(BoardsError, match="a board cannot be 'Board_1'"):
        Boards(["Board_1"], boards.image, "other")
    with pytest.raises(BoardsError, match="a fleet cannot be 'a-b'"):
        Boards(["one"], boards.image, "a-b")
    with pytest.raises(BoardsError, match="there is no board 'board9'; boards: board1, board2"):
        boards["board9"]
