"""What runs in a worker's process: a `Worker`, and a pipe for commands and errors.

Commands are tuples of a name and an argument; the numbers themselves are in shared memory. The
process leaves when its pipe is closed or its parent is gone, whatever it is doing.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import cloudpickle
import torch
from torch._inductor import config as inductor_config

from trainpilot.envs.groups import GroupSpec
from trainpilot.envs.shared_rows import RowViews, SharedRows
from trainpilot.envs.worker import Worker
from trainpilot.inner_tasks.errors import TrainpilotError


class Job(NamedTuple):
    """What a worker is given to hold.

    Attributes:
        specs: of its groups.
        first_row: number of its first row among all rows.
    """

    specs: list[GroupSpec]
    first_row: int


class Message(NamedTuple):
    """What a worker says.

    Attributes:
        kind: "ready" (a group can train), "done" (with a command), "mistake" (of the user's) or
            "failed" (any other error).
        content: number of the group, result of the command, the mistake's sentence, or the
            traceback.
    """

    kind: str
    content: Any = None


def serve(connection: Connection, shared: SharedRows) -> None:
    """Hold groups and obey commands until the pipe is closed.

    Args:
        connection: commands in, messages out; the first thing in is a pickled `Job`.
        shared: memory of all rows.
    """
    # Ctrl-C reaches every process of a terminal; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _leave_with_parent()
    torch.set_num_threads(1)
    # As many workers as cores: helpers that compile would only get in their way.
    inductor_config.compile_threads = 1
    try:
        try:
            _obey(connection, shared)
        except TrainpilotError as error:
            connection.send(Message("mistake", str(error)))
        except (EOFError, ConnectionError):
            raise
        except Exception:
            connection.send(Message("failed", traceback.format_exc()))
    except (EOFError, ConnectionError):
        pass  # the parent has closed the pipe
    # A worker has nothing to save, and the interpreter's own goodbye takes a second with torch.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _obey(connection: Connection, shared: SharedRows) -> None:
    connection.send(Message("done"))
    job: Job = cloudpickle.loads(connection.recv_bytes())
    numbers = itertools.count()
    worker = Worker(job.specs, lambda _: connection.send(Message("ready", next(numbers))))
    rows = slice(job.first_row, job.first_row + len(worker.task_names))
    views = shared.views(rows)
    connection.send(Message("done", (worker.references, worker.reports)))
    while True:
        _command(worker, views, *connection.recv())
        connection.send(Message("done"))


def _command(worker: Worker, views: RowViews, name: str, argument: Any) -> None:
    if name == "step":
        # Copies: an array of the worker's own must not change with the next command.
        views.transition.put(worker.step(views.actions.copy(), views.seeds.copy()))
    elif name == "reset":
        views.transition.put_start(worker.reset(views.seeds.copy()))
    elif name == "set_references":
        worker.set_references(argument)
    else:
        raise ValueError(f"a worker knows no command '{name}'")


def _leave_with_parent() -> None:
    """End this process as soon as its parent is gone, even in the midst of work."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
