"""Inner runs as a control problem: the engine, observed, rewarded and guarded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainpilot.envs.actions import Action, ActionSpec, clamp
from trainpilot.envs.bounding import bound
from trainpilot.envs.config import EnvConfig, StartConfig
from trainpilot.envs.engine import Engine
from trainpilot.envs.family_engine import FamilyEngine
from trainpilot.envs.guard import Guard, hopeless
from trainpilot.envs.hyperparameters import HYPERPARAMETER_NAMES, FloatArray, Hyperparameters
from trainpilot.envs.interventions import Interventions, Reason
from trainpilot.envs.levels import level
from trainpilot.envs.observation import Observation, Reading, has_budget
from trainpilot.envs.observer import Observer
from trainpilot.envs.optimizers import LEARNING_RATE_SCALES, optimizer_index
from trainpilot.envs.rewards import REWARDS, Stretch
from trainpilot.envs.signals import Evaluation
from trainpilot.envs.stage import Stage
from trainpilot.envs.task_reference import RowReferences, TaskReference
from trainpilot.inner_tasks.family import TaskFamily, Trainable

BoolArray = NDArray[np.bool_]

#: Signals that a deployment may lack, as `ObservationConfig` names them.
_DROPPABLE = ("budget", "valid", "accuracy")


class Outcome(NamedTuple):
    """What a decision led to, `(n_runs,)` each but for the observation.

    Attributes:
        observation: `(n_runs, n_features)`.
        reward: of the decision.
        terminated: the run was ended by the guard.
        hopeless: it was so for improving too little, and not for diverging.
        truncated: the run's budget is spent.
        before: hyperparameters before the decision.
        hyperparameters: in use during it, within bounds; where the learning rate changed
            during it, that of its first micro-batch.
        clamped: whether the bounds changed what was asked for, be it for one micro-batch.
        interventions: what the guard did; a run that was rolled back stands where it stood
            when all was well, and so do its observation and its losses.
        train_loss: mean over the decision's inner steps, whatever came of them.
        valid: evaluation of the observed part of `valid`.
        outer_valid: evaluation of `outer_valid`; not for controllers.
    """

    observation: Observation
    reward: FloatArray
    terminated: BoolArray
    hopeless: BoolArray
    truncated: BoolArray
    before: Hyperparameters
    hyperparameters: Hyperparameters
    clamped: BoolArray
    interventions: Interventions
    train_loss: FloatArray
    valid: Evaluation
    outer_valid: Evaluation


def draw_start(config: StartConfig, generator: np.random.Generator) -> Hyperparameters:
    """Hyperparameters of one run at its start."""
    optimizer = config.optimizers[int(generator.integers(len(config.optimizers)))]
    low, high = np.log(config.learning_rate_low), np.log(config.learning_rate_high)
    scale = LEARNING_RATE_SCALES[optimizer_index(optimizer)]
    # Not through exp where there is nothing to draw: 1e-3 stays 1e-3 to the last bit.
    rate = config.learning_rate_low if low == high else float(np.exp(generator.uniform(low, high)))
    return Hyperparameters.full(
        1,
        learning_rate=rate * scale,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        gradient_clip=math.inf if config.gradient_clip is None else config.gradient_clip,
        batch_size=config.batch_size,
        ema_decay=config.ema_decay,
        optimizer=optimizer,
    )


def run_generator(seed: int) -> np.random.Generator:
    """Draws a run's start, its budget and what is not observed.

    It is not the data order's own stream, so that the two draws are independent.
    """
    return np.random.default_rng([seed, 1])


class InnerRuns:
    """Rows of inner runs, each with its own seed and its own place in its budget.

    Args:
        task: the inner task, or a family: then each run trains a task that its seed draws.
        n_runs: number of rows, at least 1.
        config: of the environment.
        reference: of all rows, the unit of the reward (default: not known, the lowest level
            there is stands for it).
        trusted: as `Engine` has it (default: False).

    Raises:
        TrainpilotError: if the configuration is out of range or the task cannot be trained.

    Attributes:
        actions: what a learned policy controls.
        references: of the rows; `set_reference` changes them.
        family_references: gives the reference of a family's task by its number, for rows that
            begin; None for none (default).
        hyperparameters: in use, `(n_runs,)` each; where the learning rate changes during a
            decision, that of its first micro-batch.
    """

    hyperparameters: Hyperparameters

    def __init__(
        self,
        task: Trainable,
        n_runs: int,
        config: EnvConfig,
        reference: TaskReference | None = None,
        *,
        trusted: bool = False,
    ) -> None:
        config.validate()
        self.task = task
        self.n_runs = n_runs
        self.config = config
        self.actions = ActionSpec(config.actions)
        self.engine = make_engine(task, n_runs, config, trusted=trusted)
        self._known = np.ones((len(_DROPPABLE), n_runs), dtype=bool)
        self._reward = REWARDS[config.reward.name](config.reward)
        self.references = RowReferences(n_runs)
        self.family_references: Callable[[int], TaskReference] | None = None
        if reference is not None:
            self.set_reference(reference)
        self._guard = Guard(config.guard, n_runs)
        self._rolls_back = config.guard.on_divergence == "roll_back"
        self._observer = Observer(config.observation.hidden, remembers=self._rolls_back)
        self._begin_all()

    def _begin_all(self) -> None:
        """Give every row a state, that of the engine's first weights."""
        self.hyperparameters = Hyperparameters.full(self.n_runs)
        valid, outer_valid = self.engine.evaluate()
        self._guard.reset(np.ones(self.n_runs, dtype=bool), valid.loss)
        self._start_outer = outer_valid.loss
        self._level = level(outer_valid.loss, outer_valid.loss)
        self._observer.begin(self._reading(valid))

    def set_reference(self, reference: TaskReference, rows: Sequence[int] | None = None) -> None:
        """Change the unit of the reward, which is also what the guard judges by.

        Args:
            reference: of the rows' task.
            rows: which rows (default: all).
        """
        self.references.put(reference, rows)

    def _refer(self, rows: Sequence[int]) -> None:
        """Give rows of a family the reference of their new task."""
        if isinstance(self.engine, FamilyEngine) and self.family_references is not None:
            for row in rows:
                self.references.put(self.family_references(int(self.engine.numbers[row])), [row])

    @property
    def observation(self) -> Observation:
        """The latest, `(n_runs, n_features)`."""
        return self._observer.observation

    @property
    def decisions_made(self) -> NDArray[np.int64]:
        """Decisions that each run has behind it, `(n_runs,)`."""
        return self.engine.position // self.config.micro_batches_per_decision

    def chosen(self, action: Action) -> Hyperparameters:
        """The hyperparameters that an action asks for in every run, before bounds.

        Args:
            action: as `actions.space` has it, `(n_runs, ...)`.
        """
        known = has_budget(self.observation)
        stage = Stage.of(known, self.decisions_made, self.decisions_in_budget)
        return self.actions.apply(self.hyperparameters, action, stage)

    @property
    def guard_scale(self) -> FloatArray:
        """What the guard has multiplied each run's learning rate by in all, `(n_runs,)`."""
        return np.asarray(self.config.guard.shrink**self._guard.roll_backs, dtype=np.float64)

    @property
    def decisions_in_budget(self) -> NDArray[np.int64]:
        """Decisions that each run may make, `(n_runs,)`."""
        return self.engine.budgets // self.config.micro_batches_per_decision

    def reset(
        self,
        rows: Sequence[int],
        seeds: Sequence[int],
        starts: Sequence[Hyperparameters] | None = None,
        decisions: Sequence[int] | None = None,
    ) -> Observation:
        """Start runs anew in the given rows.

        Args:
            rows: which rows.
            seeds: a seed for each of these rows: initial weights, data order, dropout and,
                where they are random, the starting hyperparameters, the budget and what is
                not observed.
            starts: starting hyperparameters for each of these rows, `(1,)` each (default:
                drawn as configured).
            decisions: of each of these rows, at most `config.decisions` (default: drawn as
                configured).

        Returns:
            The observation of all rows, `(n_runs, n_features)`.
        """
        generators = [run_generator(seed) for seed in seeds]
        if starts is None:
            starts = [draw_start(self.config.start, generator) for generator in generators]
        if decisions is None:
            fewest = math.ceil(self.config.start.shortest_budget * self.config.decisions)
            decisions = [
                int(generator.integers(fewest, self.config.decisions + 1))
                for generator in generators
            ]
        shares = [getattr(self.config.observation, f"drop_{signal}") for signal in _DROPPABLE]
        for row, generator in zip(rows, generators, strict=True):
            self._known[:, row] = generator.uniform(size=len(shares)) >= shares
        each = self.config.micro_batches_per_decision
        self.engine.reset(rows, seeds, [number * each for number in decisions])
        self._refer(rows)
        chosen = np.zeros(self.n_runs, dtype=bool)
        chosen[list(rows)] = True
        self.hyperparameters = _put(self.hyperparameters, rows, starts)
        valid, outer_valid = self.engine.evaluate(rows)
        self._guard.reset(chosen, valid.loss)
        if self._rolls_back:
            self.engine.keep(chosen)
        self._start_outer = np.where(chosen, outer_valid.loss, self._start_outer)
        self._level = np.where(chosen, level(outer_valid.loss, outer_valid.loss), self._level)
        self._observer.begin(self._reading(valid), chosen)
        return self.observation

    def step(self, asked: Hyperparameters, factors: FloatArray | None = None) -> Outcome:
        """Make a decision for every run and train on until the next.

        Args:
            asked: hyperparameters for each run; they are moved into the configured bounds.
            factors: what the learning rate is multiplied by in each micro-batch, `(n_runs,
                micro_batches_per_decision)`; each product is moved into the bounds (default:
                1 throughout).

        Returns:
            What came of it. Rows that ended must be reset before the next step.

        Raises:
            TrainpilotError: if something that is asked for is not a number, or the factors
                have another shape.
        """
        n_micro_batches = self.config.micro_batches_per_decision
        used, rates, clamped = bound(asked, factors, n_micro_batches, self.config.bounds)
        before, since = self.hyperparameters, self._progress()
        self.hyperparameters = used
        signals = self.engine.advance(used, n_micro_batches, rates)
        self.engine.average(used.ema_decay)
        valid, outer_valid = self.engine.evaluate()
        found = self._guard.judge(signals, valid.loss, outer_valid.loss)
        rolled_back = self._guard.roll_back(found.any)
        exploded = found.any & ~rolled_back
        if self._rolls_back:
            self.engine.keep(found.sound)
        if rolled_back.any():
            valid, outer_valid = self._roll_back(rolled_back)
        until = self._progress()
        after = level(outer_valid.loss, self._start_outer)
        given_up = hopeless(self.config.guard, until, after, self.references.at(until))
        given_up &= self.references.known & ~found.any
        switched = used.optimizer != before.optimizer
        stretch = Stretch(self._level, after, since, until, exploded, given_up, switched)
        # Beside the reward, since to be led back earns nothing: no reward can pay for it.
        reward = self._reward(stretch, self.references) - self.config.guard.penalty * rolled_back
        terminated = exploded | given_up
        self._level = after
        self._observer.observe(signals, self._reading(valid), rolled_back, found.sound)
        return Outcome(
            observation=self.observation,
            reward=reward,
            terminated=terminated,
            hopeless=given_up,
            truncated=(self.decisions_made == self.decisions_in_budget) & ~terminated,
            before=before,
            hyperparameters=used,
            clamped=clamped,
            interventions=Interventions(
                np.where(given_up, Reason.HOPELESS, found.reason),
                found.ratio,
                rolled_back,
                self.hyperparameters.learning_rate,
            ),
            train_loss=signals.train_loss.mean(1),
            valid=valid,
            outer_valid=outer_valid,
        )

    def _roll_back(self, rows: BoolArray) -> tuple[Evaluation, Evaluation]:
        """Lead these rows back to where all was well, with a lower learning rate from now on."""
        self.engine.restore(rows)
        rate = self.hyperparameters.learning_rate
        shrunk = np.where(rows, rate * self.config.guard.shrink, rate)
        lowered = replace(self.hyperparameters, learning_rate=shrunk)
        self.hyperparameters = clamp(lowered, self.config.bounds)
        return self.engine.evaluate(np.flatnonzero(rows).tolist())

    def _progress(self) -> FloatArray:
        return np.asarray(self.engine.position / self.engine.budgets)

    def _reading(self, valid: Evaluation) -> Reading:
        """What is known of each run; NaN for what is dropped."""
        budget, has_valid, accuracy = self._known
        # Not a number would say that there is no validation set.
        loss = np.where(np.isnan(valid.loss), np.inf, valid.loss)
        found = valid.metrics.get("accuracy", np.full(self.n_runs, np.nan))
        return Reading(
            hyperparameters=self.hyperparameters,
            age=self.engine.position.astype(np.float64),
            progress=np.where(budget, self._progress(), np.nan),
            valid_loss=np.where(has_valid, loss, np.nan),
            valid_accuracy=np.where(has_valid & accuracy, found, np.nan),
        )


def make_engine(
    task: Trainable, n_runs: int, config: EnvConfig, *, trusted: bool = False
) -> Engine | FamilyEngine:
    """The engine of an environment.

    Args:
        task: the inner task, or a family.
        n_runs: number of rows, at least 1.
        config: of the environment.
        trusted: as `Engine` has it (default: False).

    Raises:
        TrainpilotError: if the task cannot be trained.
    """
    settings: dict[str, Any] = {
        "n_micro_batches": config.n_micro_batches,
        "evaluation_size": config.evaluation_size,
        "optimizers": config.optimizers,
        "max_batch_size": config.bounds.batch_size_high,
        "compiled": config.compiled,
        "mixed_precision": config.mixed_precision,
        "device": config.device,
    }
    if isinstance(task, TaskFamily):
        return FamilyEngine(task, n_runs, **settings)
    return Engine(task, n_runs, trusted=trusted, **settings)


def _put(
    hyperparameters: Hyperparameters, rows: Sequence[int], starts: Sequence[Hyperparameters]
) -> Hyperparameters:
    changed = {}
    for name in HYPERPARAMETER_NAMES:
        values = getattr(hyperparameters, name).copy()
        values[list(rows)] = [getattr(start, name)[0] for start in starts]
        changed[name] = values
    return replace(hyperparameters, **changed)
