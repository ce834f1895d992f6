"""Command line of a board and of its operator: `edge-peer run|check|stop|start|status`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from edge_peer import __version__
from edge_peer.config import Config, load_config
from edge_peer.errors import BrokerError, ConfigError, EdgePeerError, ResourceError

EPILOG = """exit codes: 0 done, 1 failed, 2 configuration, model or shard unusable, 3 no broker.

  edge-peer check --config /etc/edge-peer/config.toml    what is wrong, before anything starts
  edge-peer run --config /etc/edge-peer/config.toml      what the systemd unit starts
  edge-peer status --config /etc/edge-peer/config.toml   who is controller, which round, who is missing
  edge-peer stop --config ... --reason "enough"          end the run with the model it has
  edge-peer start --config ...                           make the peers want another run"""


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    it = argparse.ArgumentParser(
        prog="edge-peer",
        description="Federated learning on small boards over one MQTT broker, without a server.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    it.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = it.add_subparsers(dest="command", required=True, metavar="COMMAND")
    helps = {
        "run": "be a peer until SIGTERM",
        "check": "check configuration, shard, model and broker",
        "status": "show who is there and how the run goes",
        "stop": "end the run that is on",
        "start": "ask for another run",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--config", type=Path, required=True, metavar="FILE", help="the board's TOML file")
        if name == "stop":
            command.add_argument("--reason", default="", help="written into the run's record")
        if name in ("stop", "start"):
            command.add_argument("--timeout", type=float, default=60.0, metavar="S", help="give up after (default: 60)")
        if name in ("stop", "start", "status"):
            command.add_argument("--as", dest="name", metavar="NAME", help="speak as this peer (default: the file's)")
        if name == "status":
            command.add_argument("--json", action="store_true", help="for scripts")
    return it


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        config = load_config(options.config)
        _log_to_stderr(config)
        return _run(options, config)
    except (ConfigError, ResourceError) as error:
        print(f"edge-peer: {error}", file=sys.stderr)
        return 2
    except BrokerError as error:
        print(f"edge-peer: {error}", file=sys.stderr)
        return 3
    except EdgePeerError as error:
        print(f"edge-peer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace, config: Config) -> int:
    # Each command loads only what it needs: a board's memory is small.
    if options.command == "run":
        from edge_peer.shell.memory import keep_little  # noqa: PLC0415

        keep_little()
        # Of all cores, which numpy's BLAS would take for a product: they are busy training, or another program's.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from edge_peer.shell.daemon import Daemon  # noqa: PLC0415

        return Daemon(config).run()
    if options.command == "check":
        from edge_peer.operator.check import check  # noqa: PLC0415

        return check(config)
    if options.command == "status":
        from edge_peer.operator.status import status  # noqa: PLC0415

        return status(config, options.name, options.json)
    from edge_peer.operator.control import start, stop  # noqa: PLC0415

    if options.command == "stop":
        return stop(config, options.name, options.reason, options.timeout)
    return start(config, options.name, options.timeout)


def _log_to_stderr(config: Config) -> None:
    logging.basicConfig(
        level=config.log.level.upper(),
        format="%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )


if __name__ == "__main__":
    raise SystemExit(main())
