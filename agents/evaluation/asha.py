"""Asynchronous successive halving (Li et al., arXiv 1810.05934), with Optuna's pruner."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from trainpilot.agents.choice_seed import choice_seed
from trainpilot.agents.evaluation.configuration import Configuration
from trainpilot.agents.evaluation.optuna_studies import import_optuna
from trainpilot.agents.evaluation.search import (
    Found,
    Search,
    found,
    require_whole,
    trial_seed,
)
from trainpilot.agents.evaluation.search_space import SearchSpace
from trainpilot.agents.evaluation.trials import Trial, TrialRows, times
from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig
from trainpilot.inner_tasks.errors import require
from trainpilot.inner_tasks.protocol import InnerTask


@dataclass
class Asha(Search):
    """Many configurations drawn at random, of which the poor are stopped early.

    At each rung (2, 8, ... decisions) a trial goes on only if its `valid` loss is among the
    lowest 1 / `eta` of those that have come so far; one that is stopped makes room for the next,
    until the samples are spent. One that diverges ends at once, and counts as infinitely bad at
    the rung that it was bound for. Of the trials that reached their end, the one with the lowest
    `valid` loss wins. Until one has, it is the trial that came to the furthest rung without
    diverging, the one with the lowest `valid` loss there; if all diverged, the first. Each search
    trains one trial at a time, so that searches are nested.

    Args:
        eta: of the trials at a rung, one in so many goes on, at least 2 (default: 4).
        first_rung: share of the inner budget before the first rung, in (0, 1] (default: 1/16).
            The other arguments are those of `Search`.

    Raises:
        TrainpilotError: if something is out of range or Optuna is missing.
    """

    packages: ClassVar[tuple[str, ...]] = ("optuna",)

    eta: int = 4
    first_rung: float = 1 / 16

    def __post_init__(self) -> None:
        """Check every range, and that Optuna is there."""
        super().__post_init__()
        require_whole("a search's eta", self.eta, 2)
        first = self.first_rung
        require(0 < first <= 1, "a search's first_rung must lie in (0, 1]", first)
        import_optuna()

    def find(
        self,
        task: InnerTask,
        seeds: Sequence[int],
        config: EnvConfig,
        on_decision: Callable[[], None],
    ) -> list[list[Found]]:
        """What is found with each budget for each seed, as `Search` has it."""
        rows = TrialRows(task, len(seeds), config)
        # A row that no seed needs searches like the first.
        searched = [*seeds, *[seeds[0]] * (rows.n_rows - len(seeds))]
        halvings = self.halvings(task.name, searched, config)
        rows.begin(range(rows.n_rows), [halving.next() for halving in halvings])
        best: dict[int, list[Found]] = {}
        last = max(self.budgets) * config.decisions
        for spent in range(1, last + 1):
            rows.step()
            times(on_decision, len(seeds))
            ended = [row for row, each in enumerate(halvings) if each.report(rows.runs[row])]
            budget, rest = divmod(spent, config.decisions)
            if rest == 0 and budget in self.budgets:
                best[budget] = [found(halving.best) for halving in halvings[: len(seeds)]]
            if ended and spent < last:
                rows.begin(ended, [halvings[row].next() for row in ended])
        return [best[budget] for budget in self.budgets]

    def halvings(self, task: str, seeds: Sequence[int], config: EnvConfig) -> list[Halving]:
        """A search for each seed, before its first trial."""
        optuna = import_optuna()
        first_rung = max(round(self.first_rung * config.decisions), 1)
        return [
            Halving(self.space, task, seed, config.decisions, first_rung, self.eta, optuna)
            for seed in seeds
        ]


class _Standing(NamedTuple):
    """How far a trial has come without diverging: to which decision, and its loss there."""

    decisions: int
    loss: float
    configuration: Configuration

    def rank(self) -> tuple[int, float]:
        """The lower, the better."""
        return -self.decisions, self.loss


class Halving:
    """The search of one seed: which trial comes next, and which is to end.

    Args:
        space: what is searched.
        task: its name.
        seed: of the evaluation.
        decisions: of a whole trial.
        first_rung: decisions before the first rung.
        eta: one in so many goes on.
        optuna: the module.

    Attributes:
        lengths: decisions of each trial that has ended.
    """

    def __init__(
        self,
        space: SearchSpace,
        task: str,
        seed: int,
        decisions: int,
        first_rung: int,
        eta: int,
        optuna: ModuleType,
    ) -> None:
        self._space, self._seed, self._decisions = space, seed, decisions
        self._generator = np.random.default_rng(choice_seed(seed, task))
        pruner = optuna.pruners.SuccessiveHalvingPruner(first_rung, eta)
        # Configurations are drawn as random search draws them; the sampler has nothing to do.
        sampler = optuna.samplers.RandomSampler(seed=0)
        self._study = optuna.create_study(sampler=sampler, pruner=pruner)
        self._rungs = {first_rung * eta**power for power in range(decisions.bit_length())}
        self._states = optuna.trial.TrialState
        self._trial: Any = None
        # Of the best trial that has ended, and of the one that goes on unless it diverged.
        self._standings: list[_Standing] = []
        self.lengths: list[int] = []

    @property
    def best(self) -> Configuration:
        """The best configuration so far, as `Asha` has it; a trial must have begun."""
        return min(self._standings, key=_Standing.rank).configuration

    def next(self) -> Trial:
        """The next trial; it counts as begun."""
        self._trial = self._study.ask()
        configuration = self._space.draw(self._generator)
        # For want of another, the first: worse than whatever has not diverged.
        ended = self._standings or [_Standing(-1, math.inf, configuration)]
        going = _Standing(0, math.inf, configuration)
        self._standings = [min(ended, key=_Standing.rank), going]
        return Trial(configuration, trial_seed(self._seed))

    def report(self, run: Run) -> bool:
        """Whether the trial is to end.

        Args:
            run: the trial as far as it has come.
        """
        made = len(run.valid_loss) - 1
        if run.diverged:
            self._standings.pop()
            # The pruner compares at rungs alone, and is to know of this one at the next.
            self._trial.report(math.inf, min(rung for rung in self._rungs if rung >= made))
            self._trial.should_prune()
            return self._end(made, None)
        # Between rungs the pruner has nothing to say, and takes its time to say it.
        if made != self._decisions and made not in self._rungs:
            return False
        loss = run.valid_loss[-1]
        self._standings[-1] = self._standings[-1]._replace(decisions=made, loss=loss)
        if made == self._decisions:
            return self._end(made, loss)
        self._trial.report(loss, made)
        if self._trial.should_prune():
            return self._end(made, None)
        return False

    def _end(self, made: int, loss: float | None) -> bool:
        """End the trial with its loss, or with none if it was stopped."""
        self.lengths.append(made)
        if loss is None:
            self._study.tell(self._trial, state=self._states.PRUNED)
        else:
            self._study.tell(self._trial, loss)
        return True
