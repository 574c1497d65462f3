"""Searches with a budget: what every one of them shares."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np

from trainpilot.agents.controller import Controller
from trainpilot.agents.evaluation.configuration import Configuration
from trainpilot.agents.evaluation.fingerprints import code_of
from trainpilot.agents.evaluation.mixed import Mixed
from trainpilot.agents.evaluation.search_space import SearchSpace
from trainpilot.agents.evaluation.trials import final_valid_loss, times
from trainpilot.agents.rollout import roll_out
from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig
from trainpilot.inner_tasks.errors import require
from trainpilot.inner_tasks.protocol import InnerTask


class Found(NamedTuple):
    """What a search has settled on for one seed.

    Attributes:
        controller: what trains the run that counts; an object of its own.
        configuration: the same for reports.
    """

    controller: Controller
    configuration: dict[str, Any]


def found(configuration: Configuration) -> Found:
    """That a search has settled on this configuration."""
    return Found(configuration.controller(), configuration.to_json())


@dataclass
class Search(ABC):
    """Searches on the very task, then trains what it has found.

    Each seed has a search of its own, whose trials train with weights and a data order that are
    neither those of the seed itself nor those of another seed; within a search they are the same
    for all trials, which then differ by nothing but their configuration. Trials are judged by
    their `valid` loss alone. What was found is then trained with the seed itself: that run
    counts.

    Args:
        budgets: samples that searches spend, in whole inner budgets, each at least 1, ascending:
            a line of the table for each (default: 1, 4, 16 and 64).
        space: what is searched (default: `SearchSpace()`).

    Raises:
        TrainpilotError: if something is out of range.

    Attributes:
        kind: "search".
        packages: that it searches by, beside trainpilot.
    """

    kind: ClassVar[str] = "search"
    packages: ClassVar[tuple[str, ...]] = ()

    budgets: Sequence[int] = (1, 4, 16, 64)
    space: SearchSpace = field(default_factory=SearchSpace)

    def __post_init__(self) -> None:
        """Check every range."""
        # Hydra's own lists, as which they may come, are no plain data.
        self.budgets = tuple(self.budgets)
        whole = all(_is_whole(budget, 1) for budget in self.budgets)
        require(
            len(self.budgets) > 0 and whole and all(a < b for a, b in pairwise(self.budgets)),
            "a search's budgets must be one or more whole numbers of at least 1, ascending and "
            "none of them twice",
            list(self.budgets),
        )

    def names(self, name: str) -> list[str]:
        """A line for each budget, such as `tpe_16x`."""
        return [f"{name}_{budget}x" for budget in self.budgets]

    def n_decisions(self, n_seeds: int, config: EnvConfig) -> int:
        """How often `train` calls `on_decision`: for each run's decision."""
        n_runs = (self.n_trained() + len(self.budgets)) * n_seeds
        return n_runs * config.decisions

    def n_trained(self) -> int:
        """Whole inner budgets that a seed's search spends for all lines."""
        return max(self.budgets)

    def fingerprint(self) -> str:
        """Equal for equal searches by the same code and packages of the same versions."""
        # The last class is `object`.
        classes = [*type(self).__mro__[:-1], *type(self.space).__mro__[:-1]]
        code = [code_of(each) for each in classes]
        versions = [f"{package} {version(package)}" for package in self.packages]
        return json.dumps([code, asdict(self), versions], sort_keys=True)

    def train(
        self,
        name: str,
        task: InnerTask,
        seeds: Sequence[int],
        config: EnvConfig,
        on_decision: Callable[[], None] = lambda: None,
    ) -> list[Run]:
        """Train with every seed, as `Method` has it."""
        by_budget = self.find(task, seeds, config, on_decision)
        controllers = {
            line: Mixed([one.controller for one in by_seed])
            for line, by_seed in zip(self.names(name), by_budget, strict=True)
        }
        n_runs = len(controllers) * len(seeds)
        runs = roll_out(
            task, controllers, seeds, config, lambda: times(on_decision, n_runs), held_out=True
        ).runs
        settled = [
            (budget, one)
            for budget, by_seed in zip(self.budgets, by_budget, strict=True)
            for one in by_seed
        ]
        for run, (budget, one) in zip(runs, settled, strict=True):
            run.search_samples = budget * run.budget
            run.configuration = one.configuration
        return runs

    @abstractmethod
    def find(
        self,
        task: InnerTask,
        seeds: Sequence[int],
        config: EnvConfig,
        on_decision: Callable[[], None],
    ) -> list[list[Found]]:
        """What is found with each budget for each seed.

        Args:
            task: the inner task.
            seeds: of the evaluation, at least one.
            config: of the environment.
            on_decision: called for each trial's decision, for progress.
        """


def trial_seed(seed: int) -> int:
    """The seed of all trials of the search that belongs to a seed of the evaluation."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])


def best_of_first(
    configurations: Sequence[Configuration], runs: Sequence[Run], n: int
) -> Configuration:
    """The configuration with the lowest `valid` loss among the first n trials.

    One that diverged comes after all that did not; if all diverged, it is the first.
    """
    best = min(range(n), key=lambda number: (runs[number].diverged, final_valid_loss(runs[number])))
    return configurations[best]


def require_whole(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number, or too small a one.

    Args:
        name: of the setting ("a search's interval").
        value: that was given.
        least: that is allowed (default: 1).

    Raises:
        TrainpilotError: if it is refused.
    """
    require(_is_whole(value, least), f"{name} must be a whole number of at least {least}", value)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
