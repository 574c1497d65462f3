"""The tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), as Optuna has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trainpilot.agents.choice_seed import choice_seed
from trainpilot.agents.evaluation.configuration import Configuration
from trainpilot.agents.evaluation.optuna_studies import import_optuna
from trainpilot.agents.evaluation.search import (
    Found,
    Search,
    best_of_first,
    found,
    trial_seed,
)
from trainpilot.agents.evaluation.trials import Trial, TrialRows, final_valid_loss
from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig
from trainpilot.inner_tasks.protocol import InnerTask


@dataclass
class Tpe(Search):
    """Trials one after the other, each chosen by what those before it have shown.

    Each trains for a whole budget; the first ten are drawn at random, as Optuna has it.
    Searches are nested: 4x is the best of the first four trials of 64x. If all diverged, the first
    is what is found.

    Raises:
        TrainpilotError: if something is out of range or Optuna is missing.
    """

    packages: ClassVar[tuple[str, ...]] = ("optuna",)

    def __post_init__(self) -> None:
        """Check every range, and that Optuna is there."""
        super().__post_init__()
        import_optuna()

    def find(
        self,
        task: InnerTask,
        seeds: Sequence[int],
        config: EnvConfig,
        on_decision: Callable[[], None],
    ) -> list[list[Found]]:
        """What is found with each budget for each seed, as `Search` has it."""
        optuna = import_optuna()
        studies = [
            optuna.create_study(
                sampler=optuna.samplers.TPESampler(seed=choice_seed(seed, task.name))
            )
            for seed in seeds
        ]
        space, distributions = self.space, optuna.distributions
        offered = {
            "optimizer": distributions.CategoricalDistribution(tuple(space.optimizers)),
            "learning_rate": distributions.FloatDistribution(
                space.learning_rate_low, space.learning_rate_high, log=True
            ),
            "schedule": distributions.CategoricalDistribution(tuple(space.schedules)),
        }
        rows = TrialRows(task, len(seeds), config)
        tried: list[list[Configuration]] = [[] for _ in seeds]
        ended: list[list[Run]] = [[] for _ in seeds]
        for _ in range(max(self.budgets)):
            asked = [study.ask(offered) for study in studies]
            chosen = [Configuration(**trial.params) for trial in asked]
            trials = [
                Trial(each, trial_seed(seed)) for each, seed in zip(chosen, seeds, strict=True)
            ]
            runs = rows.train(trials, on_decision)
            for row, run in enumerate(runs):
                studies[row].tell(asked[row], final_valid_loss(run))
                tried[row].append(chosen[row])
                ended[row].append(run)
        return [
            [found(best_of_first(*of_seed, budget)) for of_seed in zip(tried, ended, strict=True)]
            for budget in self.budgets
        ]
