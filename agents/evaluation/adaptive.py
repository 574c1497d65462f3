"""Optimizers that adapt by themselves, from any package, as rivals in an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import packages_distributions, version
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
            self._make(nn.Parameter(torch.zeros(1)))
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
        package = self._class.__module__.partition(".")[0]
        distributions = packages_distributions().get(package, [])
        versions = [f"{name} {version(name)}" for name in distributions]
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
        config.validate()
        # To compile a model takes longer than it saves in so few runs, step by step.
        compiled = None if config.compiled else config.compiled
        config = replace(config, optimizers=["sgd"], compiled=compiled)
        engine = make_engine(task, len(seeds), config)
        if not isinstance(engine, Engine):
            raise TrainpilotError(f"a method trains a task; given: the family {task.name}")
        engine.reset(range(len(seeds)), seeds)
        trained = OptimizedRuns(engine, self._make)
        budget = config.n_micro_batches * task.micro_batch_size
        runs = [Run(task.name, name, seed, budget) for seed in seeds]
        valid, outer_valid = engine.evaluate()
        extend(runs, 0, valid.loss, outer_valid.loss)
        guard = Guard(config.guard, len(runs))
        guard.reset(np.ones(len(runs), dtype=bool), valid.loss)
        watch = HeldOut(engine, runs, valid.loss)
        for decision in range(config.decisions):
            begun = perf_counter()
            going = np.array([not run.diverged for run in runs])
            signals = trained.advance(config.micro_batches_per_decision, going)
            with trained.evaluation():
                valid, outer_valid = engine.evaluate()
                spend(runs, perf_counter() - begun)
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
                runs[row].decisions.append(
                    {
                        "task": task.name,
                        "controller": name,
                        "seed": seeds[row],
                        "decision": decision,
                        "samples": samples,
                        "learning_rate": float(rates[row]),
                        "batch_size": 1,
                        "optimizer": self._class.__name__,
                        "clamped": False,
                        "train_loss": float(signals.train_loss[row].mean()),
                        "valid_loss": float(valid.loss[row]),
                        "outer_valid_loss": float(outer_valid.loss[row]),
                        "intervention": texts[row],
                    }
                )
                runs[row].diverged = bool(found.any[row])
            for _ in runs:
                on_decision()
            if all(run.diverged for run in runs):
                break
        with trained.evaluation():
            watch.finish()
        return runs

    def _make(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        return self._class([parameter], **self._arguments)


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
