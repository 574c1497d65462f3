"""What of a policy does the work: its runs again without feedback, without order, by parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainpilot.agents.choice_seed import choice_seed
from trainpilot.agents.controller import Controller, Decision, View
from trainpilot.agents.evaluation.contenders import Contender
from trainpilot.agents.policy import PolicyController
from trainpilot.agents.run import Run
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES, OPTIMIZER_NAMES, optimizer_index


@dataclass
class OpenLoop:
    """The same hyperparameters for every run, whatever is observed.

    Args:
        schedule: of each decision, by name, as `Hyperparameters.full` takes them; the last
            stands for all that would follow.
    """

    schedule: list[dict[str, Any]]

    def begin(self, n_runs: int, actions: ActionSpec, seed: int) -> None:
        """Get ready for new runs."""
        self._n_runs = n_runs

    def decide(self, view: View) -> Decision:
        """This decision's entry, times what the guard has said."""
        entry = self.schedule[min(view.decision, len(self.schedule) - 1)]
        fixed = Hyperparameters.full(self._n_runs, **entry)
        return Decision(replace(fixed, learning_rate=fixed.learning_rate * view.guard_scale))


@dataclass
class Replayed:
    """Given actions, a sequence for each run.

    Args:
        heads: of the actions, as `ActionSpec.to_json` gives them.
        actions: indices of choices, `(n_runs, n_decisions, n_heads)`.
    """

    heads: list[dict[str, Any]]
    actions: list[list[list[int]]]

    def begin(self, n_runs: int, actions: ActionSpec, seed: int) -> None:
        """Get ready for new runs."""
        self._spec = ActionSpec.from_json(self.heads)
        self._sequences = np.array(self.actions)

    def decide(self, view: View) -> Decision:
        """This decision's actions."""
        chosen = self._sequences[:, view.decision]
        return Decision(self._spec.apply(view.hyperparameters, chosen, view.stage))


class Restricted:
    """A policy of whose choices only some are heeded.

    Args:
        policy: the whole.
        heeded: names of hyperparameters.
        first_only: of these, those that are heeded at the first decision alone.
    """

    def __init__(
        self, policy: PolicyController, heeded: Sequence[str], first_only: Sequence[str] = ()
    ) -> None:
        self._policy = policy
        self._heeded = list(heeded)
        self._first_only = list(first_only)

    def fingerprint(self) -> str:
        """Of what it depends on."""
        return f"{self._policy.fingerprint()}/{self._heeded}/{self._first_only}"

    def begin(self, n_runs: int, actions: ActionSpec, seed: int) -> None:
        """Get ready for new runs."""
        self._policy.begin(n_runs, actions, seed)

    def decide(self, view: View) -> Decision:
        """The policy's choice, where it is heeded; elsewhere all stays as it is."""
        view = self._policy.seen(view)
        why = self._policy.explain(view)
        action = why.action.copy()
        heads = self._policy.actions.heads
        heeded = [place for place, head in enumerate(heads) if self._heeds(head.name, view)]
        for place in set(range(len(heads))) - set(heeded):
            action[:, place] = heads[place].least_change(view.hyperparameters)
        # Without the others, since the least change of a head may be one all the same.
        of_all = self._policy.actions.to_json()
        spec = ActionSpec.from_json([of_all[place] for place in heeded])
        wanted = spec.apply(view.hyperparameters, action[:, heeded], view.stage)
        return Decision(wanted, why._replace(action=action))

    def _heeds(self, name: str, view: View) -> bool:
        return name in self._heeded and not (view.decision > 0 and name in self._first_only)


def parts_of(name: str, policy: PolicyController) -> list[Contender]:
    """The policy by parts, where it has several.

    Args:
        name: of the policy in the table.
        policy: the policy.
    """
    names = [head.name for head in policy.actions.heads]
    others = [each for each in names if each != "optimizer"]
    parts: list[tuple[str, str, Controller]] = []
    if "optimizer" in names and others:
        parts += [
            ("optimizer_only", "The policy, only its choice of the optimizer heeded.",
             Restricted(policy, ["optimizer"])),
            ("no_switching", "The policy, its optimizer that of its first decision.",
             Restricted(policy, names, ["optimizer"])),
            ("no_optimizer", "The policy, its choice of the optimizer not heeded.",
             Restricted(policy, others)),
        ]  # fmt: skip
    # Of the rate and the optimizer alone this is what stands above.
    if "learning_rate" in others and len(others) > 1:
        rate = Restricted(policy, ["learning_rate"])
        parts.append(("rate_only", "The policy, only its learning rate heeded.", rate))
    return [
        Contender(f"{name}_{part}", "ablation", text, controller)
        for part, text, controller in parts
    ]


def average_schedule(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What runs had on average at each decision.

    Args:
        runs: at least one; those that ended early count as long as they lasted.

    Returns:
        For each decision: the geometric mean of the learning rate (comparable among optimizers)
        and of the gradient clip, the mean of the other numbers, and the most frequent optimizer.
    """
    longest = max(len(run.decisions) for run in runs)
    return [
        _average([run.decisions[place] for run in runs if len(run.decisions) > place])
        for place in range(longest)
    ]


def _average(records: list[dict[str, Any]]) -> dict[str, Any]:
    used = [str(record["optimizer"]) for record in records]
    optimizer = max(OPTIMIZER_NAMES, key=used.count)
    scales = [LEARNING_RATE_SCALES[optimizer_index(name)] for name in used]
    # Without what the guard had done to each run: it watches the replay too.
    rates = [
        record["learning_rate"] / scale / record["guard_scale"]
        for record, scale in zip(records, scales, strict=True)
    ]
    return {
        "optimizer": optimizer,
        "learning_rate": float(np.exp(np.mean(np.log(rates))))
        * LEARNING_RATE_SCALES[optimizer_index(optimizer)],
        "weight_decay": float(np.mean([record["weight_decay"] for record in records])),
        "momentum": float(np.mean([record["momentum"] for record in records])),
        "gradient_clip": float(
            np.exp(np.mean(np.log([record["gradient_clip"] for record in records])))
        ),
        "batch_size": round(float(np.mean([record["batch_size"] for record in records]))),
        "ema_decay": float(np.mean([record["ema_decay"] for record in records])),
    }


def without_feedback(
    name: str, policy: PolicyController, runs: Sequence[Run], decisions: int
) -> dict[str, list[Contender]]:
    """Ablations that are made of a policy's own runs.

    Args:
        name: of the policy in the table.
        policy: the policy.
        runs: its runs on every task, in the same order of seeds on each.
        decisions: of a whole run.

    Returns:
        For each task: its schedule of all tasks and that of the task, replayed; its actions
        in another order.
    """
    overall = OpenLoop(average_schedule(runs))
    by_task: dict[str, list[Run]] = {}
    for run in runs:
        by_task.setdefault(run.task, []).append(run)
    heads = policy.actions.to_json()
    return {
        task: [
            Contender(
                f"{name}_open_loop", "ablation",
                "The policy's average schedule over all tasks, replayed without feedback.",
                overall,
            ),
            Contender(
                f"{name}_task_schedule", "ablation",
                "The policy's average schedule on this very task, replayed without feedback.",
                OpenLoop(average_schedule(own)),
            ),
            Contender(
                f"{name}_shuffled", "ablation",
                "The policy's own actions in each run, in another order.",
                Replayed(heads, [_shuffled(run, decisions) for run in own]),
            ),
        ]
        for task, own in by_task.items()
    }  # fmt: skip


def _shuffled(run: Run, decisions: int) -> list[list[int]]:
    """A run's actions in another order; those of a run that ended early, again and again."""
    taken = [record["action"] for record in run.decisions]
    order = np.random.default_rng(choice_seed(run.seed, run.task)).permutation(decisions)
    return [taken[place % len(taken)] for place in order]
