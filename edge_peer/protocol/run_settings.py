"""What a run is made with: the one document that the operator writes, and every controller goes by."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_peer.protocol.fields import SECONDS_MAX, Fields

STRATEGIES = frozenset({"all", "fraction", "fastest", "least_used"})
PRIVACY = frozenset({"none", "central", "local"})
#: No optimizer: the combined update is added to the model as it is.
NONE = "none"
#: The global model goes out as it is, and the broker keeps it.
WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run is made with; it travels in the round document, so that the next controller goes on alike.

    Attributes:
        rounds_max: The run ends after this many rounds.
        target_accuracy: The run ends when the global model's accuracy reaches it (0..1); None: never.
        epochs: Local epochs a round.
        learning_rate: Of the trainers' optimizer; 0: what the model was compiled with.
        round_deadline_s: A round is closed after this time with the updates that are there.
        updates_min: A round needs this many updates.
        strategy: How trainers are picked: all, fraction, fastest or least_used.
        fraction: The share of the trainers that a round takes, for every strategy but `all`.
        update_norm_max: Largest L2 norm of an update's change of the trained weights; 0: no bound.
        seed: Of the order in which each trainer sees its examples; the same seed gives the same updates again.
        proximal: Strength of the term that holds local training near the round's model (FedProx); 0: none.
        scaffold: Correct every local step by control variates, which travel with model and updates (SCAFFOLD).
        rule: How updates become one: fedavg, median, krum and others, see docs/aggregation.md.
        rule_parameters: The rule's parameters that are not to have their default, such as `{ byzantine = 2 }`.
        server_optimizer: What makes the step of the combined update: none, fedavgm, fedadagrad, fedadam or fedyogi.
        server_parameters: Its parameters that are not to have their default, such as `{ learning_rate = 0.03 }`.
        codec: How updates are sent: float32, float16, int8, int4 or topk-<fraction>.
        error_feedback: What the codec has lost of an update is added to the next one.
        downlink: How the global model is sent: `whole`, or as what has changed, in one of the codecs.
        privacy: Differential privacy for each peer's data: none, central (the controller adds noise) or local.
        privacy_clip: Largest L2 norm of an update; longer ones are shortened. With privacy only.
        privacy_noise: Standard deviation of the noise, as a multiple of twice the clip: of what one peer can change.
        privacy_delta: Probability with which the epsilon that is told need not hold.
    """

    rounds_max: int = 10
    target_accuracy: float | None = None
    epochs: int = 1
    learning_rate: float = 0.0
    round_deadline_s: float = 60.0
    updates_min: int = 2
    strategy: str = "all"
    fraction: float = 1.0
    update_norm_max: float = 0.0
    seed: int = 1
    proximal: float = 0.0
    scaffold: bool = False
    rule: str = "fedavg"
    rule_parameters: dict[str, float] = field(default_factory=dict)
    server_optimizer: str = NONE
    server_parameters: dict[str, float] = field(default_factory=dict)
    codec: str = "int8"
    error_feedback: bool = False
    downlink: str = WHOLE
    privacy: str = "none"
    privacy_clip: float = 1.0
    privacy_noise: float = 1.0
    privacy_delta: float = 1e-5

    @classmethod
    def read(cls, fields: Fields) -> RunSettings:
        """Decode from JSON fields; raises RemoteProtocolError.

        Names of rules, optimizers and codecs may be unknown here: whoever reads them can still say so.
        """
        plain = cls()
        return cls(
            rounds_max=fields.integer("rounds_max", 1, 1_000_000),
            target_accuracy=fields.number("target_accuracy", 0, 1) if fields.has("target_accuracy") else None,
            epochs=fields.integer("epochs", 1, 1000),
            learning_rate=fields.number("learning_rate", 0, 1e6),
            round_deadline_s=fields.number("round_deadline_s", 0, SECONDS_MAX),
            updates_min=fields.integer("updates_min", 1, 1_000_000),
            strategy=fields.one_of("strategy", STRATEGIES),
            fraction=fields.number("fraction", 0, 1),
            update_norm_max=fields.number("update_norm_max", 0, 1e30),
            seed=fields.integer("seed"),
            proximal=fields.number("proximal", 0, 1e6),
            # A state or a document of an earlier release has none of these, and means what there was then.
            scaffold=fields.flag("scaffold") if fields.has("scaffold") else plain.scaffold,
            rule=fields.name("rule") if fields.has("rule") else plain.rule,
            rule_parameters=fields.numbers("rule_parameters") if fields.has("rule_parameters") else {},
            server_optimizer=fields.name("server_optimizer") if fields.has("server_optimizer") else NONE,
            server_parameters=fields.numbers("server_parameters") if fields.has("server_parameters") else {},
            codec=fields.name("codec") if fields.has("codec") else "float32",
            error_feedback=fields.flag("error_feedback") if fields.has("error_feedback") else plain.error_feedback,
            downlink=fields.name("downlink") if fields.has("downlink") else plain.downlink,
            privacy=fields.one_of("privacy", PRIVACY) if fields.has("privacy") else plain.privacy,
            privacy_clip=_positive(fields, "privacy_clip", plain.privacy_clip, 1e9),
            privacy_noise=_positive(fields, "privacy_noise", plain.privacy_noise, 1e6),
            privacy_delta=_positive(fields, "privacy_delta", plain.privacy_delta, 0.5),
        )


def _positive(fields: Fields, key: str, default: float, maximum: float) -> float:
    return fields.number(key, 1e-12, maximum) if fields.has(key) else default
