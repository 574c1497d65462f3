"""Population-based training (Jaderberg et al., arXiv 1711.09846)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trainpilot.agents.evaluation.population import Populations
from trainpilot.agents.evaluation.search import Found, Search, require_whole
from trainpilot.agents.evaluation.trials import MOST_ROWS, times
from trainpilot.envs.config import EnvConfig
from trainpilot.inner_tasks.protocol import InnerTask


@dataclass
class PopulationBasedTraining(Search):
    """A population trains side by side; the worst continue from the best, a little changed.

    A population of n spends n inner budgets. Members begin with configurations drawn at random.
    From time to time each of the worst fifth takes over the weights, the moments and the
    hyperparameters of one of the best fifth, if that one's `valid` loss is lower (truncation
    selection), and multiplies the learning rate by 0.8 or 1.25, but never beyond the space's
    bounds. What counts is the schedule that was found: the hyperparameters that led to the member
    with the lowest `valid` loss are used again, from the start, with the evaluation's own seed;
    learning rates as they were before the guard lowered any, since it watches that run too.
    Where all members diverged the first one's are used.
    A population of 1 is a random configuration. Members' rates are constant but for what the
    population does; the space's schedules are not used.

    Args:
        interval: decisions from one selection to the next, at least 1 (default: 3). The other
            arguments are those of `Search`.

    Raises:
        TrainpilotError: if something is out of range.
    """

    interval: int = 3

    def __post_init__(self) -> None:
        """Check every range."""
        super().__post_init__()
        require_whole("a search's interval", self.interval)

    def n_trained(self) -> int:
        """Whole inner budgets that a seed's search spends: each line has its own population."""
        return sum(self.budgets)

    def find(
        self,
        task: InnerTask,
        seeds: Sequence[int],
        config: EnvConfig,
        on_decision: Callable[[], None],
    ) -> list[list[Found]]:
        """What is found with each budget for each seed, as `Search` has it."""
        by_budget = []
        for size in self.budgets:
            by_seed: list[Found] = []
            n_chunks = min(-(-len(seeds) * size // MOST_ROWS), len(seeds))
            for chunk in np.array_split(np.array(seeds), n_chunks):
                populations = Populations(task, size, chunk.tolist(), self.space, config)
                for decision in range(1, config.decisions + 1):
                    populations.step()
                    times(on_decision, size * len(chunk))
                    if decision % self.interval == 0 and decision < config.decisions:
                        populations.select()
                by_seed += populations.best()
            by_budget.append(by_seed)
        return by_budget
