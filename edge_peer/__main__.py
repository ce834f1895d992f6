"""Command line of a board and of its operator: `edge-peer run|check|stop|start|status|watch|predict|audit`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from edge_peer import __version__
from edge_peer.config import Config, load_config
from edge_peer.errors import BrokerError, ConfigError, EdgePeerError, ResourceError

EPILOG = """exit codes: 0 done, 1 failed, 2 configuration, model or shard unusable, 3 no broker, 4 name taken.

  edge-peer check --config /etc/edge-peer/config.toml    what is wrong, before anything starts
  edge-peer run --config /etc/edge-peer/config.toml      what the systemd unit starts
  edge-peer status --config /etc/edge-peer/config.toml   who is controller, which round, who is missing
  edge-peer watch --config /etc/edge-peer/config.toml    the same as it happens
  edge-peer stop --config ... --reason "enough"          end the run with the model it has
  edge-peer start --config ...                           make the peers want another run
  edge-peer predict runs/latest photo.png                what the model of a run says of a picture
  edge-peer audit runs/latest                            whether log, CSVs, updates and models of a run fit together"""

PREDICT = """Print the class of each example, by the model that a run has made.

MODEL is a run's folder (its int8 model, or the float32 one where there is no other), an int8 .tflite file, or a
model.safetensors. FILE is an .npy of uint8, many examples or one, an IDX file (.gz too), a PNG or a JPEG. A picture is
converted to the model's channels and resized. The confidence is the softmax of the logits."""

PREDICT_EPILOG = """for scripts; columns and keys are always there, and empty (null) where nothing is known:
  --csv    source,index,class,name,confidence,label and, with --top N, class_2,name_2,confidence_2 to N
  --json   a line an example: source, index, class, name, confidence, label, and top: a list of N objects with class,
           name and confidence, the best first
  index counts a file's examples from 0; accuracy and timing then go to standard error.

exit codes: 0 done, 1 a file could not be used (it is named, the rest goes on) or the labels do not fit, 2 model, names
or labels unusable.

  edge-peer predict runs/latest photo.png more/*.png rows.npy --top 3 --classes names.txt
  edge-peer predict model.int8.tflite t10k-images-idx3-ubyte.gz --labels t10k-labels-idx1-ubyte.gz
  edge-peer predict model.safetensors rows.npy --artifacts models/artifacts/image_cnn --csv"""

AUDIT = """Check the files of a run against each other: the chain of models from the initial weights to the final one,
that every update counts once, that the CSVs agree with the round log. Where updates were kept ([peer] keep_updates),
every round's model is made again by the controllers' own code, and must be the same to the byte.

RUN is a run's folder as a demo or a collection leaves it. A round is `recomputed`, or checked by `digests only`, or
`missing`. Nothing is signed: files that somebody has changed so that all of them fit are not found out."""

AUDIT_EPILOG = """exit codes: 0 clean, 1 something does not fit (each is named), 2 no such run, or artifacts unusable.

  edge-peer audit runs/latest
  edge-peer audit runs/latest --artifacts models/artifacts/image_cnn"""


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
        "run": "be a peer until SIGTERM; SIGHUP: read the configuration again",
        "check": "check configuration, shard, model and broker",
        "status": "show who is there and how the run goes",
        "watch": "show a federation as it happens, until Ctrl-C",
        "stop": "end the run that is on",
        "start": "ask for another run",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--config", type=Path, required=True, metavar="FILE", help="the board's TOML file")
        if name == "check":
            command.add_argument("--no-broker", action="store_true", help="all but the broker")
        if name == "stop":
            command.add_argument("--reason", default="", help="written into the run's record")
        if name in ("stop", "start"):
            command.add_argument("--timeout", type=float, default=60.0, metavar="S", help="give up after (default: 60)")
        if name in ("stop", "start", "status", "watch"):
            command.add_argument("--as", dest="name", metavar="NAME", help="speak as this peer (default: the file's)")
        if name == "status":
            command.add_argument("--json", action="store_true", help="for scripts")
    _add_predict(commands)
    audit = commands.add_parser(
        "audit",
        help="check a run's files against each other, and make its models again",
        description=AUDIT,
        epilog=AUDIT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    audit.add_argument("run", type=Path, metavar="RUN", help="such as runs/latest")
    audit.add_argument(
        "--artifacts", type=Path, metavar="FOLDER", help="of the model (default: what the run's config.toml says)"
    )
    return it


def _add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """It needs no configuration: a model and examples are enough."""
    it = commands.add_parser(
        "predict",
        help="print the classes of pictures or arrays, by a run's model",
        description=PREDICT,
        epilog=PREDICT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    it.add_argument("model", type=Path, metavar="MODEL", help="such as runs/latest")
    it.add_argument("inputs", type=Path, nargs="+", metavar="FILE", help="examples")
    it.add_argument("--float", dest="as_float", action="store_true", help="the float32 model of a run that has both")
    it.add_argument(
        "--artifacts",
        type=Path,
        metavar="FOLDER",
        help="of the float32 model (default: what the run's config.toml says)",
    )
    it.add_argument("--top", type=int, default=1, metavar="N", help="the N likeliest classes (default: 1)")
    it.add_argument("--classes", type=Path, metavar="FILE", help="names of the classes, one a line")
    it.add_argument(
        "--labels", type=Path, metavar="FILE", help="IDX or .npy with the label of every example: print the accuracy"
    )
    form = it.add_mutually_exclusive_group()
    form.add_argument("--csv", dest="form", action="store_const", const="csv", default="table", help="for scripts")
    form.add_argument("--json", dest="form", action="store_const", const="json", help="for scripts")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "predict":
            return _predict(options)
        if options.command == "audit":
            from edge_peer.operator.audit.command import audit  # noqa: PLC0415

            return audit(options.run, options.artifacts)
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


def _predict(options: argparse.Namespace) -> int:
    from edge_peer.operator.prediction.command import Request, predict  # noqa: PLC0415

    given = {name: value for name, value in vars(options).items() if name != "command"}
    return predict(Request(**{**given, "inputs": tuple(options.inputs)}))


def _run(options: argparse.Namespace, config: Config) -> int:
    # Each command loads only what it needs: a board's memory is small.
    if options.command == "run":
        from edge_peer.shell.memory import keep_little  # noqa: PLC0415

        keep_little()
        # Of all cores, which numpy's BLAS would take for a product: they are busy training, or another program's.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from edge_peer.shell.daemon import Daemon  # noqa: PLC0415

        return Daemon(config, options.config).run()
    if options.command == "check":
        from edge_peer.operator.live.check import check  # noqa: PLC0415

        return check(config, broker=not options.no_broker)
    if options.command == "status":
        from edge_peer.operator.live.status import status  # noqa: PLC0415

        return status(config, options.name, options.json)
    if options.command == "watch":
        try:
            from edge_peer.operator.live.watch import watch  # noqa: PLC0415
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("rich"):
                raise
            raise ResourceError("watch needs rich, which is not installed: pip install 'edge-peer[operator]'") from None

        return watch(config.broker, config.federation.name, options.name or config.peer.name)
    from edge_peer.operator.live.control import start, stop  # noqa: PLC0415

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
