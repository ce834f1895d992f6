"""`edge-peer check`: everything that `edge-peer run` needs, tried one after another before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

from edge_peer.config import Config
from edge_peer.errors import BrokerError, ConfigError, EdgePeerError
from edge_peer.operator.live.session import Session
from edge_peer.protocol.topics import UPDATE
from edge_peer.shell.resources import load_resources
from edge_peer.shell.store import Store
from edge_peer.shell.tls import own_certificate, tls_context
from edge_peer.shell.x509 import days_left, untimely
from edge_peer.trainers.artifacts import load_artifacts
from edge_peer.trainers.backends import make_trainer


def check(config: Config, broker: bool = True) -> int:
    """Print one line a check; returns the exit code: 0 well, 3 only the broker is missing, 2 something else is.

    Args:
        config: Of the peer.
        broker: Try the broker, too.
    """
    checks: list[tuple[str, Callable[[Config], str]]] = [
        ("configuration", _configuration),
        ("model and shard", _resources),
        ("interpreter", _interpreter),
        ("state folder", _state),
    ]
    if config.broker.tls_ca is not None:
        checks.append(("certificate", _certificate))
    if broker:
        checks.append(("broker", _broker))
    worst = 0
    for name, run in checks:
        try:
            print(f"ok    {name}: {run(config)}", flush=True)
        except BrokerError as error:
            print(f"FAIL  {name}: {error}", flush=True)
            worst = worst or 3
        except EdgePeerError as error:
            print(f"FAIL  {name}: {error}", flush=True)
            worst = 2
    return worst


def _configuration(config: Config) -> str:
    votes = f"{len(config.federation.roster)} on the roster" if config.federation.roster else "no roster"
    return f"{config.peer.name} of federation {config.federation.name}, {votes}"


def _resources(config: Config) -> str:
    artifacts, shard = load_resources(config)
    data = f"{len(shard.y_train)} training and {len(shard.y_test)} test examples" if shard is not None else "no shard"
    return f"{artifacts.model_id} ({artifacts.digest[:12]}), {artifacts.layout.trained_size} parameters; {data}"


def _interpreter(config: Config) -> str:
    return make_trainer(config.trainer.backend, load_artifacts(config.model.artifacts), config.trainer.threads).runtime


def _state(config: Config) -> str:
    Store(config.peer.state_dir)
    return f"{config.peer.state_dir} can be written to"


def _certificate(config: Config) -> str:
    # Whatever is wrong with the three files, or with whose they are.
    tls_context(config.broker, config.peer.name)
    own, now = own_certificate(config.broker), datetime.now(timezone.utc)
    if problem := untimely(own, now):
        raise ConfigError([f"[broker] tls_certificate = {str(config.broker.tls_certificate)!r} {problem}"])
    return f"{own.common_name}'s, {days_left(own, now)} days left"


def _broker(config: Config) -> str:
    host, port = config.broker.address
    with Session(config.broker, config.federation.name, config.peer.name) as session:
        # An empty update says nothing to anybody; whether it may be said is what is asked.
        session.publish(UPDATE, None)
        how = "TLS, both sides authenticated" if config.broker.tls_ca else "no TLS"
        return f"{host}:{port} answers, and lets {config.peer.name} write ({how})"
