"""The errors of the daemon, and who is to blame for each.

EdgePeerError
+-- ConfigError            the user's configuration: exit code 2, every problem listed at once
+-- ResourceError          a shard, a model or a state file is missing or damaged: exit code 2
+-- BrokerError            the broker stayed away longer than the configured limit: exit code 3
+-- RemoteProtocolError    another peer's message is wrong: dropped, counted, logged; never fatal
+-- LocalProtocolError     this program drives the protocol wrongly: a bug; the process stops
"""

from __future__ import annotations


class EdgePeerError(Exception):
    """Base class of every error that this package raises on purpose."""


class ConfigError(EdgePeerError):
    """The configuration cannot be used.

    Args:
        problems: One sentence a problem, each naming the field, its value and the remedy.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class ResourceError(EdgePeerError):
    """A file that the peer needs is missing or damaged; the message names it and the command that makes it."""


class BrokerError(EdgePeerError):
    """The broker could not be reached, or refused this peer, for longer than the configuration allows."""


class RemoteProtocolError(EdgePeerError):
    """A message from another peer breaks a rule; it is dropped and the state stays as it was."""


class LocalProtocolError(EdgePeerError):
    """The shell called the protocol in a way that it does not allow; this is a bug in this program."""
