"""The variants of the ablations: overrides of `trainpilot train`, by study and name."""

from __future__ import annotations

from trainpilot.envs.observation import FEATURE_NAMES

#: Features that say one thing together.
FEATURE_GROUPS = {
    "time": ["has_budget", "progress", "age"],
    "train loss": [name for name in FEATURE_NAMES if name.startswith("train_")],
    "gradients": [
        "gradient_norm", "gradient_noise", "gradient_momentum_cosine",
        "gradient_parameter_cosine", "gradient_update_cosine", "gradient_signal",
    ],
    "size of the update": ["relative_update"],
    "validation loss": [
        "has_valid", "generalisation_gap", "valid_loss", "valid_improvement", "valid_regret",
    ],
    "accuracy": ["has_accuracy", "valid_accuracy"],
    "learning rate": ["learning_rate", "learning_rate_change", "learning_rate_step"],
    "optimizer": [name for name in FEATURE_NAMES if name.startswith("optimizer_")]
    + ["since_switch"],
}  # fmt: skip

#: What every policy controls but those of the study of actions: what the policy that ships does.
_RATE = ["env.actions.optimizers=[]"]
_STEPS = "[0.5,1.0,2.0]"
_ALL_ACTIONS = [
    f"env.actions.weight_decay={_STEPS}", f"env.actions.momentum={_STEPS}",
    f"env.actions.gradient_clip={_STEPS}", f"env.actions.batch_size={_STEPS}",
    "env.bounds.batch_size_high=8",
]  # fmt: skip
#: A policy that begins by mostly leaving all as it is.
_KEEPING = ["agent.keep_bias=2"]
_MAY_KEEP = ["env.actions.optimizers=[keep,sgd,adam,rmsprop]", *_KEEPING]
_RATIOS = ("loss", "train_loss", "gradient", "parameter")


def _hopeless(share: float, after: float) -> list[str]:
    return [*_RATE, f"env.guard.hopeless_share={share}", f"env.guard.hopeless_after={after}"]


def hiding(names: list[str]) -> list[str]:
    """Overrides under which a policy sees none of these features."""
    return [*_RATE, f"env.observation.hidden=[{','.join(names)}]"]


#: Overrides of each variant, by study. The first variant is what the others are held against.
STUDIES: dict[str, dict[str, list[str]]] = {
    "actions": {
        "rate": _RATE,
        "optimizer": ["env.actions.learning_rate=[]"],
        "rate and optimizer": [],
        "rate and weight decay": [*_RATE, _ALL_ACTIONS[0]],
        "rate and momentum": [*_RATE, _ALL_ACTIONS[1]],
        "rate and gradient clip": [*_RATE, _ALL_ACTIONS[2]],
        "rate and batch size": [*_RATE, *_ALL_ACTIONS[3:]],
        "all": _ALL_ACTIONS,
        "rate, begun by keeping": [*_RATE, *_KEEPING],
        "optimizer, begun by keeping": ["env.actions.learning_rate=[]", *_MAY_KEEP],
        "rate and optimizer, begun by keeping": _MAY_KEEP,
        "all, begun by keeping": [*_ALL_ACTIONS, *_MAY_KEEP],
        "rate and Adam or RMSProp": ["env.actions.optimizers=[adam,rmsprop]"],
        "rate and Adam or RMSProp, begun by keeping": [
            "env.actions.optimizers=[keep,adam,rmsprop]", *_KEEPING
        ],
    },
    "guard": {
        "ends what diverges": _RATE,
        "ends only what is not finite": [
            *_RATE, *(f"env.guard.max_{ratio}_ratio=1e30" for ratio in _RATIOS)
        ],
        "rolls back": [*_RATE, "env.guard.on_divergence=roll_back"],
        "ends the hopeless": _hopeless(0.3, 0.2),
        "ends the most hopeless": _hopeless(0.1, 0.2),
        "ends the hopeless late": _hopeless(0.3, 0.5),
    },
    "rewards": {
        "log_improvement": _RATE,
        **{
            name: [*_RATE, f"env.reward.name={name}"]
            for name in ("area_under_curve", "time_to_target", "over_reference")
        },
    },
    "features": {
        "all": _RATE,
        **{f"without {group}": hiding(names) for group, names in FEATURE_GROUPS.items()},
        "none but time": hiding([n for n in FEATURE_NAMES if n not in FEATURE_GROUPS["time"]]),
        "nothing dropped in training": [
            *_RATE,
            *(f"env.observation.drop_{signal}=0" for signal in ("budget", "valid", "accuracy")),
        ],
    },
}  # fmt: skip


def plackett_burman(prime: int) -> list[list[bool]]:
    """A two-level design of `prime + 1` policies for as many as `prime` factors.

    Every factor is on in half of the policies, and every two factors are on together in a
    quarter: the mean with a factor less the mean without is its effect, whatever the others do
    on their own. Plackett and Burman, Biometrika 33 (1946), by the quadratic residues of a prime
    of the form 4k + 3 (Paley's construction).

    Args:
        prime: 4k + 3.

    Returns:
        shape (prime + 1, prime).
    """
    squares = {number * number % prime for number in range(1, prime)}
    rows = [[(column + row) % prime in squares for column in range(prime)] for row in range(prime)]
    return [*rows, [True] * prime]


def screening() -> list[list[str]]:
    """The hidden features of each policy of the screening of single features: half of them."""
    return [
        [name for name, on in zip(FEATURE_NAMES, row, strict=False) if not on]
        for row in plackett_burman(43)
    ]
