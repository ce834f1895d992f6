"""Relations between a run's rule, optimizer, codecs and privacy: what no single field can show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from aggregator_core.codecs import CodecNameError, check_name
from aggregator_core.parameters import ParameterError
from edge_peer.protocol.run_settings import WHOLE, RunSettings
from edge_peer.shell.aggregation import CoreAggregation, optimizer_of, rule_of

if TYPE_CHECKING:
    from edge_peer.config import Config


def aggregation_relations(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every relation that does not hold: the fields that it is about, and the problem."""
    run = config.run
    for fields, names in (
        (("rule", "rule_parameters"), lambda: rule_of(run)),
        (("server_optimizer", "server_parameters"), lambda: optimizer_of(run.server_optimizer, run.server_parameters)),
        (("codec",), lambda: check_name(run.codec)),
        (("downlink",), lambda: None if run.downlink == WHOLE else check_name(run.downlink)),
    ):
        try:
            names()
        except (ParameterError, CodecNameError) as error:
            value = repr(getattr(run, fields[-1]))[:80]
            yield tuple(f"run.{it}" for it in fields), f"[run] {fields[-1]} = {value}: {error}"
    yield from _enough(config)
    yield from _together(run)


def _enough(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    run, roster, peers_max = config.run, config.federation.roster, config.limits.peers_max
    needed = CoreAggregation().updates_needed(run)
    if roster is not None and run.updates_min <= len(roster) < needed:
        yield (
            ("run.rule", "run.rule_parameters", "federation.roster"),
            (
                f'[run] rule = "{run.rule}" needs {needed} updates to bear what it is told to, the roster has only '
                f"{len(roster)} peers: lower byzantine in rule_parameters, or choose another rule"
            ),
        )
    elif run.updates_min <= peers_max < needed:
        yield (
            ("run.rule", "run.rule_parameters", "limits.peers_max"),
            (
                f'[run] rule = "{run.rule}" needs {needed} updates to bear what it is told to: more than [limits] '
                f"peers_max = {peers_max}; lower byzantine in rule_parameters, or raise that"
            ),
        )


def _together(run: RunSettings) -> Iterator[tuple[tuple[str, ...], str]]:
    """What does not go together."""
    if run.codec.startswith("topk-") and not run.error_feedback:
        yield (
            ("run.codec", "run.error_feedback"),
            f'[run] codec = "{run.codec}" loses most of an update for good without error_feedback = true: add that',
        )
    if run.downlink.startswith("topk-"):
        yield (
            ("run.downlink",),
            f'[run] downlink = "{run.downlink}" leaves most of a round out of the model, for good: choose int8 or int4',
        )
    for key, on in (("scaffold", run.scaffold), ("privacy", run.privacy != "none")):
        if on and run.rule != "fedavg":
            yield (
                (f"run.{key}", "run.rule"),
                f'[run] {key} goes with rule = "fedavg" alone, not with "{run.rule}": leave one of them out',
            )
    if run.scaffold and run.privacy != "none":
        yield (
            ("run.scaffold", "run.privacy"),
            "[run] scaffold sends control variates, which tell of the data and get no noise: leave it or privacy out",
        )
    if run.privacy == "none":
        return
    if run.privacy == "local" and run.update_norm_max > 0:
        yield (
            ("run.privacy", "run.update_norm_max"),
            (
                f"[run] update_norm_max = {run.update_norm_max:g} would refuse every update with local noise on it, "
                "which is as long as the noise is: leave it out, privacy_clip bounds updates"
            ),
        )
    if run.codec.startswith("topk-"):
        yield (
            ("run.codec", "run.privacy"),
            f'[run] codec = "{run.codec}" picks values by the data before noise hides them: choose int8 or int4',
        )
