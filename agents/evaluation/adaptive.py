"""Optimizers that adapt by themselves, from any package, as rivals in an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.metadata import packages_distributions, version
from itertools import product
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

from trainpilot.agents.evaluation.fingerprints import code_of
from trainpilot.agents.evaluation.optimized_runs import OptimizedRuns
from trainpilot.agents.held_out import HeldOut
from trainpilot.agents.rollout import extend, spend
from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.engine import Engine
from trainpilot.envs.guard import Guard
from trainpilot.envs.inner_runs import make_engine
from trainpilot.envs.interventions import Interventions
from trainpilot.inner_tasks.errors import TrainpilotError, first_line, require
from trainpilot.inner_tasks.protocol import InnerTask


class AdaptiveOptimizer:
    """A method that is an optimizer with its settings: an update after every micro-batch.

    A run that has diverged, as the guard has it (`env.guard`), ends; nothing is rolled back.
    Running statistics such as those of batch normalisation are those of training.

    Args:
        optimizer: dotted name of a `torch.optim.Optimizer`.
        arguments: its arguments beside the parameters (default: none).

    Raises:
        TrainpilotError: if its package is missing, it is no optimizer, or it does not take the
            arguments.

    Attributes:
        kind: "adaptive".
    """

    kind = "adaptive"

    def __init__(self, optimizer: str, arguments: Mapping[str, Any] | None = None) -> None:
        self._class = _optimizer_class(optimizer)
        # Hydra's own mappings and lists would be handed on to the optimizer.
        plain = OmegaConf.to_container(arguments) if OmegaConf.is_config(arguments) else arguments
        self._arguments = dict(cast("Mapping[str, Any]", plain or {}))
        try:
            self.make(nn.Parameter(torch.zeros(1)))
        except (TypeError, ValueError) as error:
            raise TrainpilotError(
                f"the arguments must be such as {optimizer} takes; given: {self._arguments} "
                f"({first_line(error)})"
            ) from error

    def names(self, name: str) -> list[str]:
        """The lines of the table that it fills: one.

        Args:
            name: of the method in the configuration.
        """
        return [name]

    def n_decisions(self, n_seeds: int, config: EnvConfig) -> int:
        """How often `train` calls `on_decision`, at most."""
        return config.decisions * n_seeds

    def fingerprint(self) -> str:
        """Equal for equal optimizers of the same version, with equal arguments."""
        versions = _versions(self._class.__module__.partition(".")[0])
        settings = [code_of(self._class), versions, self._arguments]
        return json.dumps(settings, sort_keys=True, default=repr)

    def train(
        self,
        name: str,
        task: InnerTask,
        seeds: Sequence[int],
        config: EnvConfig,
        on_decision: Callable[[], None] = lambda: None,
    ) -> list[Run]:
        """Train with every seed, side by side, with the optimizer's own learning rate.

        Args:
            name: as for `names`.
            task: the inner task.
            seeds: of the runs; a seed means the weights and the data order that it means for
                a controller.
            config: of the environment; what it says of hyperparameters is not used.
            on_decision: called for each run's decision.

        Returns:
            A finished run for each seed. Its records hold the learning rate that the decision
            ended with.

        Raises:
            TrainpilotError: if the configuration is out of range or the task cannot be trained.
        """
        return train_side_by_side({name: self}, task, seeds, config, on_decision)

    @property
    def optimizer_name(self) -> str:
        """What records call it."""
        return self._class.__name__

    def make(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        """An optimizer of that parameter."""
        return self._class([parameter], **self._arguments)


def train_side_by_side(
    optimizers: Mapping[str, AdaptiveOptimizer],
    task: InnerTask,
    seeds: Sequence[int],
    config: EnvConfig,
    on_decision: Callable[[], None] = lambda: None,
) -> list[Run]:
    """Train with several optimizers and every seed in one engine.

    Args:
        optimizers: by the name of their runs.
        task: as `AdaptiveOptimizer.train` has it, like the rest.
        seeds: of the runs of each.
        config: of the environment.
        on_decision: called for each run's decision.

    Returns:
        A finished run for each optimizer, and for each seed of it.

    Raises:
        TrainpilotError: as `AdaptiveOptimizer.train`.
    """
    config.validate()
    config = replace(config, optimizers=["sgd"])
    pairs = list(product(optimizers.items(), seeds))
    engine = make_engine(task, len(pairs), config)
    if not isinstance(engine, Engine):
        raise TrainpilotError(f"a method trains a task; given: the family {task.name}")
    engine.reset(range(len(pairs)), [seed for _, seed in pairs])
    trained = OptimizedRuns(engine, [optimizer.make for (_, optimizer), _ in pairs])
    budget = config.n_micro_batches * task.micro_batch_size
    runs = [Run(task.name, name, seed, budget) for (name, _), seed in pairs]
    valid, outer_valid = engine.evaluate()
    extend(runs, 0, valid.loss, outer_valid.loss)
    guard = Guard(config.guard, len(runs))
    guard.reset(np.ones(len(runs), dtype=bool), valid.loss)
    watch = HeldOut(engine, runs, valid.loss)
    for decision in range(config.decisions):
        begun, updates = perf_counter(), trained.update_seconds.copy()
        going = np.array([not run.diverged for run in runs])
        signals = trained.advance(config.micro_batches_per_decision, going)
        with trained.evaluation():
            valid, outer_valid = engine.evaluate()
            updates = trained.update_seconds - updates
            spend(runs, perf_counter() - begun - updates.sum())
            for run, seconds in zip(runs, updates.tolist(), strict=True):
                run.seconds += seconds
            watch.look(valid.loss)
            # Signals are of weights before an update: here are those after the last.
            finite = torch.isfinite(engine.parameters).all(1).cpu().numpy()
        signals.parameter_norm[~finite, -1] = np.inf
        found = guard.judge(signals, valid.loss, outer_valid.loss)
        samples = int(engine.position[0]) * task.micro_batch_size
        extend(runs, samples, valid.loss, outer_valid.loss)
        rates = trained.learning_rate
        never = np.zeros(len(runs), dtype=bool)
        texts = Interventions(found.reason, found.ratio, never, rates).texts(rates)
        for row in np.flatnonzero(going).tolist():
            run = runs[row]
            run.decisions.append(
                {
                    "task": task.name,
                    "controller": run.controller,
                    "seed": run.seed,
                    "decision": decision,
                    "samples": samples,
                    "learning_rate": float(rates[row]),
                    "batch_size": 1,
                    "optimizer": optimizers[run.controller].optimizer_name,
                    "clamped": False,
                    "train_loss": float(signals.train_loss[row].mean()),
                    "valid_loss": float(valid.loss[row]),
                    "outer_valid_loss": float(outer_valid.loss[row]),
                    "intervention": texts[row],
                }
            )
            run.diverged = bool(found.any[row])
        for _ in runs:
            on_decision()
        if all(run.diverged for run in runs):
            break
    with trained.evaluation():
        watch.finish()
    return runs


@cache
def _versions(package: str) -> list[str]:
    """Of what installed the package; to find that, all that is installed is looked through."""
    return [f"{name} {version(name)}" for name in packages_distributions().get(package, [])]


def _optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class of that dotted name.

    Raises:
        TrainpilotError: if there is none, or it is no optimizer.
    """
    module, _, attribute = name.rpartition(".")
    require(bool(module), "an optimizer is named with its module, as torch.optim.Adam is", name)
    package = module.partition(".")[0]
    found: Any
    try:
        found = getattr(import_module(module), attribute, None)
    except ImportError as error:
        raise TrainpilotError(
            f"the optimizer {name} needs the package '{package}', which "
            f"'pip install {package.replace('_', '-')}' installs; given: {first_line(error)}"
        ) from error
    require(
        isinstance(found, type) and issubclass(found, torch.optim.Optimizer),
        f"{name} must be a torch.optim.Optimizer",
        found,
    )
    return found  # type: ignore[no-any-return]
