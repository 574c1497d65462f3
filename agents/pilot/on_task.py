"""Trains a task's own model under a controller, by a loop as any user has it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainpilot.agents.controller import Controller
from trainpilot.agents.pilot.deciding import DivergedError
from trainpilot.agents.pilot.pilot import Pilot
from trainpilot.agents.run import Run
from trainpilot.envs.actions import clamp
from trainpilot.envs.config import EnvConfig
from trainpilot.envs.data_order import data_order
from trainpilot.envs.devices import device_of
from trainpilot.envs.evaluating import observed_sample
from trainpilot.envs.initial_weights import InitialWeights
from trainpilot.envs.inner_runs import draw_start, run_generator
from trainpilot.envs.starting import check_losses, refusing
from trainpilot.inner_tasks.protocol import InnerTask, Split, check_micro_batch_size


def train_on_task(
    task: InnerTask,
    controller: Controller,
    seed: int,
    config: EnvConfig,
    *,
    name: str = "pilot",
    farthest: float | None = None,
    on_decision: Callable[[], None] = lambda: None,
) -> tuple[Run, nn.Module]:
    """Train a model as the engine trains a run of the same seed, but with torch's own means.

    Weights and data order are the same; dropout draws from torch's generator, which is seeded.

    Args:
        task: gives model, data and loss.
        controller: decides.
        seed: of weights, data order and dropout.
        config: budget, start, bounds, guard and device of the environment; the rest is the
            engine's.
        name: of the controller, for the record.
        farthest: as `Pilot` has it (default: None).
        on_decision: called when it is known what came of a decision.

    Returns:
        The finished run and the trained model.
    """
    config.validate()
    device = device_of(config.device)
    check_micro_batch_size(task.name, task.micro_batch_size, len(task.splits.train.inputs))
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else None):
        with refusing(task):
            model = InitialWeights(task).model(seed).to(device)
            run = Run(task.name, name, seed, config.n_micro_batches * task.micro_batch_size)
            loop = _Loop(task, model, config, run, on_decision, device)
            loop.check()
        torch.manual_seed(seed)
        loop.train(Pilot(controller, farthest), seed)
    return run, model


class _Loop:
    """One training, and the curves that it leaves."""

    def __init__(
        self,
        task: InnerTask,
        model: nn.Module,
        config: EnvConfig,
        run: Run,
        on_decision: Callable[[], None],
        device: torch.device,
    ) -> None:
        self._task = task
        self._model = model
        self._config = config
        self._on_decision = on_decision
        self._step = 0
        self.run = run
        self._device = device
        splits = task.splits
        self._train_split = self._moved(splits.train)
        self._valid = self._moved(observed_sample(splits.valid, config.evaluation_size))
        self._outer = self._moved(observed_sample(splits.outer_valid, config.evaluation_size))

    def check(self) -> None:
        """Refuse what cannot be trained before anything is."""
        first = Split(*(part[: self._task.micro_batch_size] for part in self._train_split))
        splits = {"valid": self._valid, "outer_valid": self._outer, "train": first}
        losses = {name: self._evaluate(split)[0] for name, split in splits.items()}
        check_losses(self._task, losses)

    def train(self, pilot: Pilot, seed: int) -> None:
        """Train to the end of the budget, or until the guard ends it."""
        config, task, begun = self._config, self._task, time.perf_counter()
        # The engine moves a start into the bounds at the first decision.
        start = clamp(draw_start(config.start, run_generator(seed)), config.bounds).row(0)
        self._optimizer = optimizer = pilot.attach(
            self._model,
            config.n_micro_batches,
            lr=start.pop("learning_rate"),
            **start,
            validate=self._validate,
            on_decision=self._record,
            decisions=config.decisions,
            measured_steps=config.micro_batches_per_decision,
            bounds=config.bounds,
            guard=config.guard,
            seed=seed,
        )
        inputs, targets = self._train_split
        order = data_order(seed, len(inputs), config.n_micro_batches, task.micro_batch_size)
        self._model.train()
        try:
            for batch in order.to(self._device):
                optimizer.zero_grad()
                loss = task.loss(self._model(inputs[batch]), targets[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                self._step += 1
                optimizer.step(loss=loss)
        except DivergedError:
            self.run.diverged = True
        else:
            optimizer.load_averaged()
        self.run.seconds = time.perf_counter() - begun
        if not self.run.diverged:
            test = self._moved(task.splits.test)
            self.run.test_loss, self.run.test_metrics = self._evaluate(test)

    def _validate(self) -> tuple[float, float]:
        """What the pilot is told."""
        loss, metrics = self._evaluate(self._valid)
        if not self.run.samples:
            self._add_point(loss)
        return loss, metrics.get("accuracy", float("nan"))

    def _add_point(self, valid_loss: float) -> None:
        samples = self._step * self._task.micro_batch_size if self.run.samples else 0
        self.run.add_point(samples, valid_loss, self._evaluate(self._outer)[0])

    def _record(self, decision: dict[str, Any]) -> None:
        """Take in a decision and what came of it, after a roll-back if there was one."""
        run = self.run
        with self._optimizer.averaged():
            self._add_point(decision["valid_loss"])
        own = {"task": run.task, "controller": run.controller, "seed": run.seed}
        more = {"samples": run.samples[-1], "outer_valid_loss": run.outer_valid_loss[-1]}
        run.decisions.append(own | decision | more)
        run.roll_backs += str(decision["intervention"]).startswith("rolled back")
        self._on_decision()

    def _evaluate(self, split: Split) -> tuple[float, dict[str, float]]:
        self._model.eval()
        with torch.no_grad():
            outputs = self._model(split.inputs)
            loss = float(self._task.loss(outputs, split.targets))
            metrics = self._task.metrics(outputs, split.targets)
        self._model.train()
        return loss, {name: float(value) for name, value in metrics.items()}

    def _moved(self, split: Split) -> Split:
        return Split(*(part.to(self._device) for part in split))
