"""Populations that train side by side: rows that take over from one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trainpilot.agents.choice_seed import choice_seed
from trainpilot.agents.evaluation.configuration import Configuration
from trainpilot.agents.evaluation.replay import Replay
from trainpilot.agents.evaluation.search import Found, trial_seed
from trainpilot.agents.evaluation.search_space import SearchSpace
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import FloatArray, Hyperparameters
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES
from trainpilot.inner_tasks.errors import TrainpilotError
from trainpilot.inner_tasks.protocol import InnerTask

#: What a learning rate that was taken over is multiplied by, one of these.
FACTORS = (0.8, 1.25)
#: Share of a population that gives up, and share that is taken over from.
_SHARE = 0.2


class Populations:
    """A population for each seed.

    Args:
        task: the inner task.
        size: members of each population, at least 1.
        seeds: of the evaluation, one for each population.
        space: where members begin and what they never leave.
        config: of the environment.

    Attributes:
        valid_loss: of each member, `(n_seeds, size)`; infinite where it diverged.
        used: hyperparameters that led to each row's weights, decision by decision,
            `(n_rows,)` each; the rows are one population after the other.
        scales: what the guard had multiplied the learning rate by before each of these
            decisions, `(n_rows,)` each.
    """

    def __init__(
        self,
        task: InnerTask,
        size: int,
        seeds: Sequence[int],
        space: SearchSpace,
        config: EnvConfig,
    ) -> None:
        self._size, self._space = size, space
        self._shape = len(seeds), size
        self._generators = [np.random.default_rng(choice_seed(seed, task.name)) for seed in seeds]
        drawn = [space.draw(generator) for generator in self._generators for _ in range(size)]
        own_seeds = [trial_seed(seed) for seed in seeds for _ in range(size)]
        # A lone row takes other paths through the arithmetic than one of several.
        if len(drawn) == 1:
            drawn, own_seeds = drawn * 2, own_seeds * 2
        n_rows = len(drawn)
        self._inner = InnerRuns(task, n_rows, config)
        engine = self._inner.engine
        if not isinstance(engine, Engine):
            raise TrainpilotError(f"a search trains one task; given: the family {task.name}")
        self._engine = engine
        starts = [_hyperparameters(each) for each in drawn]
        self._inner.reset(range(n_rows), own_seeds, starts, [config.decisions] * n_rows)
        self._asked = self._inner.hyperparameters
        self.valid_loss = np.full(self._shape, np.inf)
        self.used: list[Hyperparameters] = []
        self.scales: list[FloatArray] = []
        # On the way to each row's weights; the guard counts those of the row.
        self._roll_backs = np.zeros(n_rows, dtype=np.int64)
        self._diverged = np.zeros(n_rows, dtype=bool)

    def step(self) -> None:
        """Train every member until its next decision."""
        outcome = self._inner.step(self._asked)
        self.used.append(outcome.hyperparameters)
        guard = self._inner.config.guard
        self.scales.append(np.asarray(guard.shrink**self._roll_backs, dtype=np.float64))
        self._roll_backs = self._roll_backs + outcome.interventions.rolled_back
        # What the guard has lowered stays so.
        self._asked = self._inner.hyperparameters
        # What the guard ends, or would end if the schedule were used again, stays so.
        too_often = self._roll_backs > guard.max_roll_backs
        self._diverged = self._diverged | outcome.terminated | too_often
        losses = np.where(self._diverged, np.inf, outcome.valid.loss)
        self.valid_loss = losses[: np.prod(self._shape)].reshape(self._shape)

    def select(self) -> None:
        """Let the worst of each population take over from the best."""
        pairs = [
            (number * self._size + worse, number * self._size + better, generator)
            for number, generator in enumerate(self._generators)
            for worse, better in self._pairs(self.valid_loss[number], generator)
        ]
        if not pairs:
            return
        takers, givers = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        for carried in self._engine.carried():
            carried[takers] = carried[givers]
        if self._inner.config.guard.on_divergence == "roll_back":
            # A roll-back must not lead to the weights that were given up.
            self._engine.keep(np.isin(np.arange(self._inner.n_runs), takers))
        self.used = [_taken_over(used, takers, givers) for used in self.used]
        for values in (*self.scales, self._roll_backs, self._diverged):
            values[takers] = values[givers]
        self._asked = _taken_over(self._asked, takers, givers)
        rates = self._asked.learning_rate
        for taker, _, generator in pairs:
            scale = LEARNING_RATE_SCALES[self._asked.optimizer[taker]]
            explored = rates[taker] / scale * generator.choice(FACTORS)
            rates[taker] = self._space.clip(explored) * scale

    def _pairs(self, losses: np.ndarray, generator: np.random.Generator) -> list[tuple[int, int]]:
        """Who takes over from whom in one population."""
        n_chosen = min(max(round(_SHARE * self._size), 1), self._size // 2)
        ranked = np.argsort(losses, kind="stable").tolist()
        pairs = [
            (worse, ranked[int(generator.integers(n_chosen))])
            for worse in ranked[self._size - n_chosen :]
        ]
        return [(worse, better) for worse, better in pairs if losses[better] < losses[worse]]

    def best(self) -> list[Found]:
        """The schedule that led to the best member of each population, the first if all diverged.

        What the guard lowers is left to the guard of the run that uses the schedule again.
        """
        found = []
        for number, losses in enumerate(self.valid_loss):
            row = number * self._size + int(losses.argmin())
            used = [each.rows(slice(row, row + 1)) for each in self.used]
            rows = [each.row(0) for each in used]
            asked = [
                replace(each, learning_rate=each.learning_rate / scale[row])
                for each, scale in zip(used, self.scales, strict=True)
            ]
            configuration = {
                "optimizer": [row["optimizer"] for row in rows],
                "learning_rate": [row["learning_rate"] for row in rows],
            }
            found.append(Found(Replay(asked), configuration))
        return found


def _hyperparameters(configuration: Configuration) -> Hyperparameters:
    rate = configuration.own_learning_rate()
    return Hyperparameters.full(1, optimizer=configuration.optimizer, learning_rate=rate)


def _taken_over(
    hyperparameters: Hyperparameters, takers: Sequence[int], givers: Sequence[int]
) -> Hyperparameters:
    """With the givers' learning rates and optimizers in the takers' places."""
    rates, optimizers = hyperparameters.learning_rate.copy(), hyperparameters.optimizer.copy()
    rates[takers], optimizers[takers] = rates[givers], optimizers[givers]
    return replace(hyperparameters, learning_rate=rates, optimizer=optimizers)
