"""Random search (Bergstra and Bengio, JMLR 13, 2012)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trainpilot.agents.choice_seed import choice_seed
from trainpilot.agents.evaluation.search import (
    Found,
    Search,
    best_of_first,
    found,
    trial_seed,
)
from trainpilot.agents.evaluation.trials import Trial, train_trials
from trainpilot.envs.config import EnvConfig
from trainpilot.inner_tasks.protocol import InnerTask


@dataclass
class RandomSearch(Search):
    """The best of n configurations drawn at random, each trained for a whole budget.

    Searches are nested: 4x is the best of the first four trials of 64x. 1x is a random
    configuration. If all diverged, the first is what is found.
    """

    def find(
        self,
        task: InnerTask,
        seeds: Sequence[int],
        config: EnvConfig,
        on_decision: Callable[[], None],
    ) -> list[list[Found]]:
        """What is found with each budget for each seed, as `Search` has it."""
        most = max(self.budgets)
        drawn = []
        for seed in seeds:
            generator = np.random.default_rng(choice_seed(seed, task.name))
            drawn.append([self.space.draw(generator) for _ in range(most)])
        trials = [
            Trial(each, trial_seed(seed))
            for seed, configurations in zip(seeds, drawn, strict=True)
            for each in configurations
        ]
        runs = train_trials(task, trials, config, on_decision)
        by_seed = [runs[first : first + most] for first in range(0, len(runs), most)]
        return [
            [found(best_of_first(*of_seed, budget)) for of_seed in zip(drawn, by_seed, strict=True)]
            for budget in self.budgets
        ]
