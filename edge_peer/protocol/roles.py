"""What a peer is at a time, and what makes it something else."""

from __future__ import annotations

OFFLINE = "offline"
JOINING = "joining"
ELECTING = "electing"
FOLLOWING = "following"
LEADING = "leading"
STOPPED = "stopped"

#: (role, what happens) -> role. docs/protocol.md shows this table; any other pair is a bug in this program.
TRANSITIONS: dict[tuple[str, str], str] = {
    (OFFLINE, "connected"): JOINING,
    (JOINING, "controller seen"): FOLLOWING,
    (JOINING, "grace over, no controller"): ELECTING,
    (JOINING, "called to an election"): ELECTING,
    (JOINING, "grace over, still controller"): LEADING,
    (ELECTING, "controller seen"): FOLLOWING,
    (ELECTING, "elected"): LEADING,
    (FOLLOWING, "controller lost"): ELECTING,
    (LEADING, "controller seen"): FOLLOWING,
    (LEADING, "resigned"): ELECTING,
    (JOINING, "disconnected"): OFFLINE,
    (ELECTING, "disconnected"): OFFLINE,
    (FOLLOWING, "disconnected"): OFFLINE,
    (LEADING, "disconnected"): OFFLINE,
    (OFFLINE, "shut down"): STOPPED,
    (JOINING, "shut down"): STOPPED,
    (ELECTING, "shut down"): STOPPED,
    (FOLLOWING, "shut down"): STOPPED,
    (LEADING, "shut down"): STOPPED,
}
