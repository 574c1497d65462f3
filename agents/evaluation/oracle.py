"""The oracle: the best configuration of a grid for a task, known only in hindsight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import ClassVar

from trainpilot.agents.evaluation.configuration import Configuration, check_schedule
from trainpilot.agents.evaluation.search import require_whole
from trainpilot.agents.evaluation.trials import Trial, final_outer_valid_loss, times, train_trials
from trainpilot.agents.rollout import roll_out
from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.optimizers import optimizer_index
from trainpilot.envs.reference import GRID_LEARNING_RATES, GRID_OPTIMIZERS
from trainpilot.inner_tasks.errors import require
from trainpilot.inner_tasks.protocol import InnerTask


@dataclass
class Oracle:
    """The best of a grid by `outer_valid` itself, what no controller may see.

    Every configuration is trained with the seeds 0 to `search_seeds` - 1, whatever seeds are
    evaluated. The one whose mean `outer_valid` loss ends lowest is then trained with every seed;
    one that diverges with any of them is infinitely bad. If all do, the first of the grid is taken.

    Args:
        optimizers: of the grid (default: sgd, adam, rmsprop).
        learning_rates: in units of Adam's (default: half decades from 1e-4 to 1e-1).
        schedules: of the grid (default: constant and cosine).
        search_seeds: seeds that a configuration is judged by, at least 1 (default: 2).

    Raises:
        TrainpilotError: if a name is unknown or something is out of range.

    Attributes:
        kind: "oracle".
    """

    kind: ClassVar[str] = "oracle"

    optimizers: Sequence[str] = GRID_OPTIMIZERS
    learning_rates: Sequence[float] = GRID_LEARNING_RATES
    schedules: Sequence[str] = ("constant", "cosine")
    search_seeds: int = 2

    def __post_init__(self) -> None:
        """Check every range."""
        # Hydra's own lists, as which they may come, are no plain data.
        self.optimizers = tuple(self.optimizers)
        self.learning_rates = tuple(self.learning_rates)
        self.schedules = tuple(self.schedules)
        for name in self.optimizers:
            optimizer_index(name)
        for name in self.schedules:
            check_schedule(name)
        require_whole("an oracle's search_seeds", self.search_seeds)
        require(len(self.grid()) > 0, "an oracle must hold at least one configuration", "none")

    def grid(self, schedules: Sequence[str] | None = None) -> list[Configuration]:
        """Every configuration with these schedules (default: with all of the grid's)."""
        given = self.schedules if schedules is None else schedules
        return [
            Configuration(optimizer, rate, schedule)
            for schedule, optimizer, rate in product(given, self.optimizers, self.learning_rates)
        ]

    def names(self, name: str) -> list[str]:
        """A line for each schedule, such as `oracle_fixed`, and one for the best of all."""
        return list(self._choices(name))

    def _choices(self, name: str) -> dict[str, list[Configuration]]:
        """What each line chooses among."""
        words = {"constant": "fixed"}
        lines = {f"{name}_{words.get(each, each)}": self.grid([each]) for each in self.schedules}
        return {**lines, name: self.grid()}

    def n_decisions(self, n_seeds: int, config: EnvConfig) -> int:
        """How often `train` calls `on_decision`: for each run's decision."""
        n_runs = len(self.grid()) * self.search_seeds + len(self.names("")) * n_seeds
        return n_runs * config.decisions

    def train(
        self,
        name: str,
        task: InnerTask,
        seeds: Sequence[int],
        config: EnvConfig,
        on_decision: Callable[[], None] = lambda: None,
    ) -> list[Run]:
        """Train with every seed, as `Method` has it.

        `search_samples` of a run are those of all configurations that its line chose among.
        """
        grid = self.grid()
        trials = [Trial(each, seed) for each in grid for seed in range(self.search_seeds)]
        tried = train_trials(task, trials, config, on_decision)
        losses = {
            each: fmean(final_outer_valid_loss(run) for run in tried[first:][: self.search_seeds])
            for each, first in zip(grid, range(0, len(tried), self.search_seeds), strict=True)
        }
        choices = self._choices(name)
        best = {line: min(offered, key=losses.__getitem__) for line, offered in choices.items()}
        controllers = {line: each.controller() for line, each in best.items()}
        n_runs = len(controllers) * len(seeds)
        runs = roll_out(
            task, controllers, seeds, config, lambda: times(on_decision, n_runs), held_out=True
        ).runs
        for run in runs:
            n_trials = len(choices[run.controller]) * self.search_seeds
            run.search_samples = n_trials * run.budget
            run.configuration = best[run.controller].to_json()
        return runs
