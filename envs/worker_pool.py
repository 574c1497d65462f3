"""Groups of rows spread over worker processes."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from trainpilot.envs.actions import Action, ActionSpec
from trainpilot.envs.groups import Groups, GroupSpec, OnReady
from trainpilot.envs.hyperparameters import IntArray
from trainpilot.envs.shared_rows import SharedRows
from trainpilot.envs.spreading import assign
from trainpilot.envs.transition import Start, Transition
from trainpilot.envs.worker import Worker
from trainpilot.envs.worker_process import WorkerProcess
from trainpilot.inner_tasks.errors import require

#: How long workers may take to leave before they are told more firmly (seconds).
_PATIENCE = 1.0


def start_groups(
    specs: Sequence[GroupSpec], n_workers: int = 0, on_ready: OnReady | None = None
) -> Groups:
    """Make groups of rows; the same seeds give the same runs for any number of workers.

    Args:
        specs: of the groups, at least one; all with the same actions.
        n_workers: processes; 0 for none but this one (default). Programs that ask for workers
            need the guard `if __name__ == "__main__":`, as for anything of `multiprocessing`.
        on_ready: told of each group, or part of one, that can train.

    Raises:
        TrainpilotError: if a number is out of range, a task cannot be trained or a worker dies.
    """
    require(n_workers >= 0, "n_workers must be at least 0", n_workers)
    return WorkerPool(specs, n_workers, on_ready) if n_workers else Worker(specs, on_ready)


class WorkerPool:
    """Groups of rows spread over processes (`Groups` has the surface).

    Args:
        specs: of the groups, at least one; all with the same actions.
        n_workers: processes, at least 1; not more are started than there are pairs of rows.
        on_ready: told of each group, or part of one, that can train.

    Raises:
        TrainpilotError: if a task cannot be trained.
        WorkerDiedError: if a worker dies, here or in any method.
        WorkerFailedError: if a worker meets any other error, here or in any method.

    Attributes:
        workers: their processes.
    """

    def __init__(
        self, specs: Sequence[GroupSpec], n_workers: int, on_ready: OnReady | None = None
    ) -> None:
        require(len(specs) > 0, "a worker must hold at least one group", "none")
        require(n_workers >= 1, "n_workers must be at least 1", n_workers)
        for spec in specs:
            spec.config.validate()
            require(spec.n_rows >= 1, "n_rows must be at least 1", spec.n_rows)
        self.config = specs[0].config
        self.actions = ActionSpec(self.config.actions)
        self.task_names = [spec.task.name for spec in specs for _ in range(spec.n_rows)]
        self.references = {
            spec.task.name: spec.reference for spec in specs if spec.reference is not None
        }
        self.reports: dict[str, str] = {}
        self.workers: list[WorkerProcess] = []
        self._closed = False
        shared = SharedRows(len(self.task_names), self.actions.space)
        self._views = shared.views()
        try:
            self._start(assign(specs, n_workers), shared, on_ready)
        except BaseException:
            self.close()
            raise

    def _start(
        self, parts: list[list[GroupSpec]], shared: SharedRows, on_ready: OnReady | None
    ) -> None:
        first_row = 0
        with _without_interrupts():
            for number, specs in enumerate(parts):
                self.workers.append(WorkerProcess(number, specs, first_row, shared))
                first_row += sum(spec.n_rows for spec in specs)
        self._finish()
        for worker in self.workers:
            worker.give_job()
        for references, reports in self._finish(on_ready):
            self.references |= references
            self.reports |= reports
        # A task that is divided was measured in one of its parts.
        self._command("set_references", self.references)

    def reset(self, seeds: IntArray) -> Start:
        """As `Groups.reset` has it."""
        self._finish()
        self._views.seeds[:] = seeds
        self._command("reset")
        # Copies: the next command writes where these stand.
        return self._views.transition.map(np.copy).start()

    def step(self, actions: Action, seeds: IntArray) -> Transition:
        """As `Groups.step` has it."""
        self._finish()
        self._views.actions[:] = actions
        self._views.seeds[:] = seeds
        self._command("step")
        return self._views.transition.map(np.copy)

    def close(self) -> None:
        """End every worker, by force where it does not leave by itself."""
        self._closed = True
        try:
            for worker in self.workers:
                worker.pipe.close()  # which a worker that waits for a command takes for the end
            self._await_ends()
            for worker in self.workers:
                worker.process.terminate()
            self._await_ends()
        finally:
            for worker in self.workers:
                worker.process.kill()
                worker.process.join()

    def _await_ends(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        for worker in self.workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))

    def _command(self, name: str, argument: Any = None) -> None:
        for worker in self.workers:
            worker.command(name, argument)
        self._finish()

    def _finish(self, on_ready: OnReady | None = None) -> list[Any]:
        """Wait until no worker is busy; after Ctrl-C, with what was left undone.

        Returns:
            What the workers that were busy answered, in no order.
        """
        require(not self._closed, "workers must not be used after they are closed", "closed")
        answers = []
        while busy := [worker for worker in self.workers if worker.busy]:
            spoke = set(wait([handle for worker in busy for handle in worker.handles]))
            for worker in busy:
                if spoke.isdisjoint(worker.handles):
                    continue
                try:
                    message = worker.receive()
                except Exception:
                    self.close()
                    raise
                if message.kind == "done":
                    answers.append(message.content)
                elif on_ready is not None:
                    on_ready(worker.specs[message.content])
        return answers


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach from the very first; here it comes later."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # As it starts, at the first process, it would let the signal through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
