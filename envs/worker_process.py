"""A worker's process as its parent sees it: what it holds, what it says, and how it ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from trainpilot.envs.groups import GroupSpec
from trainpilot.envs.shared_rows import SharedRows
from trainpilot.envs.worker_serving import Job, Message, serve
from trainpilot.inner_tasks.errors import TrainpilotError

#: How long a process that has closed its pipe may take to end (seconds).
_LAST_BREATH = 1.0


class WorkerDiedError(TrainpilotError):
    """A worker's process has ended by itself or by another's hand."""


class WorkerFailedError(RuntimeError):
    """A worker met an error that is nobody's mistake; the message has its traceback."""


class WorkerProcess:
    """A process that holds groups of rows; started at once.

    Args:
        number: of the worker, from 0.
        specs: of its groups.
        first_row: number of its first row among all rows.
        shared: memory of all rows.

    Attributes:
        specs: as given.
        process: the process.
        pipe: commands out, messages in.
        busy: whether it owes an answer.
    """

    def __init__(
        self, number: int, specs: list[GroupSpec], first_row: int, shared: SharedRows
    ) -> None:
        self.specs = specs
        self._job = Job(specs, first_row)
        self._name = f"worker {number} ({', '.join(spec.task.name for spec in specs)})"
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(theirs, shared), name=f"trainpilot worker {number}", daemon=True
        )
        self.process.start()
        # The worker's end is the worker's alone, so that it is closed when it dies.
        theirs.close()
        self.busy = True

    @property
    def handles(self) -> tuple[Connection, int]:
        """What `multiprocessing.connection.wait` waits for: a message, or the end."""
        return self.pipe, self.process.sentinel

    def give_job(self) -> None:
        """Let it make its groups; it must be listening, for the tasks' data may be large."""
        self.busy = True
        # One that has died is named when its answer is waited for; so in `command`.
        with contextlib.suppress(ConnectionError):
            # Unlike pickle, cloudpickle takes the lambdas that tasks are made of.
            self.pipe.send_bytes(cloudpickle.dumps(self._job))

    def command(self, name: str, argument: Any = None) -> None:
        """Give a command, which `receive` will say the result of."""
        self.busy = True
        with contextlib.suppress(ConnectionError):
            self.pipe.send((name, argument))

    def receive(self) -> Message:
        """The next message, once the pipe or the process has something to say.

        Raises:
            TrainpilotError: with the sentence, if the worker met a user's mistake.
            WorkerFailedError: if it met any other error.
            WorkerDiedError: if it has died.
        """
        try:
            message: Message | None = self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, ConnectionError):
            message = None
        if message is None:
            raise WorkerDiedError(
                f"every worker must live until the end; given: {self._name}, which died: "
                f"{self._how_it_ended()}"
            )
        if message.kind == "mistake":
            raise TrainpilotError(message.content)
        if message.kind == "failed":
            raise WorkerFailedError(f"{self._name} failed:\n{message.content}")
        self.busy = message.kind != "done"
        return message

    def _how_it_ended(self) -> str:
        self.process.join(_LAST_BREATH)
        code = self.process.exitcode
        if code is None:
            return "it closed its pipe"
        if code >= 0:
            return f"it left with exit code {code}"
        memory = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return f"{signal.Signals(-code).name} ended it{memory}"
