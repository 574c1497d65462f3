"""Workers: the same runs whoever holds them, clear errors, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trainpilot.envs.config import EnvConfig, StartConfig
from trainpilot.envs.groups import GroupSpec
from trainpilot.envs.limits import GuardConfig
from trainpilot.envs.observation import FEATURE_NAMES
from trainpilot.envs.vector import InnerTrainingVecEnv
from trainpilot.envs.worker import Worker
from trainpilot.envs.worker_pool import WorkerPool, start_groups
from trainpilot.envs.worker_process import WorkerDiedError, WorkerFailedError
from trainpilot.inner_tasks import TensorTask, TrainpilotError

CONFIG = EnvConfig(
    decisions=3,
    micro_batches_per_decision=2,
    start=StartConfig(["adam", "sgd"], 1e-3, 1e-1),
    guard=GuardConfig(max_roll_backs=1, max_loss_ratio=1.05),  # so that it has to act
)

PROGRESS = FEATURE_NAMES.index("progress")


def task(name, width=3, loss="cross_entropy"):
    generator = torch.Generator().manual_seed(width)
    inputs = torch.randn(100, 2, generator=generator)
    return TensorTask(
        name,
        inputs=inputs,
        targets=(inputs[:, 0] * inputs[:, 1] > 0).long(),
        model=lambda: nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2)),
        micro_batch_size=10,
        loss=loss,
    )


def specs():
    # Two workers divide the second task.
    return [
        GroupSpec(task("narrow"), 4, CONFIG),
        GroupSpec(task("wide", 8), 6, CONFIG, measure=True),
    ]


def trace(groups, n_steps=7):
    """Every number of some decisions, among them two ends of every run."""
    generator = np.random.default_rng(0)
    seeds = np.arange(10)
    start = groups.reset(seeds)
    rows = [start.observation]
    for step in range(n_steps):
        actions = generator.integers([5, 3], size=(10, 2))
        rows += list(groups.step(actions, seeds + 10 * step).arrays())
    return rows


@pytest.fixture(scope="module")
def pool():
    made = WorkerPool(specs(), 2)
    yield made
    made.close()


def test_the_same_seeds_give_the_same_runs_to_the_last_bit(pool):
    alone = Worker(specs())
    assert [[s.n_rows for s in worker.specs] for worker in pool.workers] == [[4, 2], [4]]
    assert pool.references == alone.references
    assert set(alone.references) == {"wide"}
    for one, two in zip(trace(alone), trace(pool), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


def test_what_the_guard_did_comes_through(pool):
    alone = Worker(specs())
    seen = set()
    for groups in (alone, pool):
        groups.reset(np.arange(10))
    for _ in range(3):
        actions = np.tile([4, 0], (10, 1))  # up, and SGD
        one, two = (groups.step(actions, np.arange(10)) for groups in (alone, pool))
        rate = one.hyperparameters.learning_rate
        texts = one.interventions.texts(rate)
        assert two.interventions.texts(rate) == texts
        seen |= {text.split(":")[0] for text in texts if text is not None}
    assert seen == {"rolled back", "ended"}


def test_what_a_step_gave_stays_as_it_was(pool):
    start = pool.reset(np.arange(10))
    first = pool.step(np.zeros((10, 2), dtype=int), np.arange(10))
    kept = [array.copy() for array in (start.observation, *first.arrays())]
    pool.step(np.ones((10, 2), dtype=int), np.arange(10))
    for before, after in zip(kept, (start.observation, *first.arrays()), strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_an_interrupt_left_undone_does_not_disturb_what_follows(pool, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    pool.reset(np.arange(10))  # it may be the first test that uses the pool
    with monkeypatch.context() as patch:
        patch.setattr("trainpilot.envs.worker_pool.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.step(np.zeros((10, 2), dtype=int), np.arange(10))
    for one, two in zip(trace(Worker(specs())), trace(pool), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_vector_environment_is_the_same_with_workers(pool):
    env, alone = InnerTrainingVecEnv(pool, seed=4), InnerTrainingVecEnv(Worker(specs()), seed=4)
    assert env.task_names == ["narrow"] * 4 + ["wide"] * 6
    np.testing.assert_array_equal(env.reset(), alone.reset())
    for _ in range(4):
        actions = np.array([env.action_space.sample() for _ in range(10)])
        for one, two in zip(env.step(actions)[:3], alone.step(actions)[:3], strict=True):
            np.testing.assert_array_equal(one, two)


def test_an_end_starts_the_row_anew_with_the_seed_that_was_given():
    worker = Worker(specs())
    worker.reset(np.zeros(10, dtype=int))
    for _ in range(3):
        transition = worker.step(np.full((10, 2), 1), np.full(10, 77))
    assert transition.truncated.all()
    assert (transition.terminal_observation[:, PROGRESS] == 1).all()
    fresh = Worker(specs()).reset(np.full(10, 77))
    np.testing.assert_array_equal(transition.observation, fresh.observation)
    np.testing.assert_array_equal(
        transition.current_hyperparameters.learning_rate, fresh.hyperparameters.learning_rate
    )


def test_a_worker_that_is_killed_is_named_and_none_is_left():
    groups = WorkerPool(specs(), 2)
    groups.reset(np.arange(10))
    os.kill(groups.workers[1].process.pid, signal.SIGKILL)
    begun = time.monotonic()
    with pytest.raises(WorkerDiedError, match=r"worker 1 \(wide\), which died: SIGKILL ended it"):
        groups.step(np.zeros((10, 2), dtype=int), np.arange(10))
    assert time.monotonic() - begun < 5
    assert not any(worker.process.is_alive() for worker in groups.workers)
    groups.close()
    with pytest.raises(TrainpilotError, match="must not be used after they are closed"):
        groups.reset(np.arange(10))


def test_errors_in_a_worker_come_through():
    mistaken = task("mistaken", loss=lambda outputs, targets: outputs.sum() * torch.nan)
    with pytest.raises(TrainpilotError, match="task 'mistaken' must be finite") as one:
        start_groups([GroupSpec(task("narrow"), 2, CONFIG), GroupSpec(mistaken, 2, CONFIG)], 1)
    assert type(one.value) is TrainpilotError
    groups = start_groups([GroupSpec(task("narrow"), 2, CONFIG)], 1)
    groups.reset(np.arange(2))
    with pytest.raises(WorkerFailedError, match=r"(?s)worker 0 \(narrow\) failed:.*IndexError"):
        groups.step(np.full((2, 2), 99), np.arange(2))
    assert not groups.workers[0].process.is_alive()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 1), "at least one group; given: none"),
        (([], 0), "at least one group; given: none"),
        (([GroupSpec(task("narrow"), 2, CONFIG)], -1), "n_workers must be at least 0; given: -1"),
        (([GroupSpec(task("narrow"), 0, CONFIG)], 1), "n_rows must be at least 1; given: 0"),
    ],
)
def test_values_out_of_range_are_named(arguments, message):
    with pytest.raises(TrainpilotError, match=message):
        start_groups(*arguments)


#: A parent that prints the ids of its workers and then makes decisions without end.
PARENT = """
    import numpy as np
    from trainpilot.envs.config import EnvConfig
    from trainpilot.envs.groups import GroupSpec
    from trainpilot.envs.worker_pool import start_groups
    from trainpilot.inner_tasks.catalogue import load_task

    if __name__ == "__main__":
        groups = start_groups([GroupSpec(load_task("iris_mlp"), 4, EnvConfig())], 2)
        groups.reset(np.arange(4))
        print(*[worker.process.pid for worker in groups.workers], flush=True)
        while True:
            groups.step(np.zeros((4, 2), dtype=int), np.arange(4))
"""


def alive(pid):
    """Whether a process runs; one that has ended and waits to be read does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path, end):
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    for pid in workers:
        assert alive(pid)
        # Ctrl-C is kept from a worker from its first moment, before any of its own code runs.
        blocked = Path(f"/proc/{pid}/status").read_text().split("SigBlk:")[1].split()[0]
        assert int(blocked, 16) & 1 << signal.SIGINT - 1
    if end == signal.SIGINT:  # as a terminal sends it: to all processes of the group
        os.killpg(process.pid, end)
    else:
        process.send_signal(end)
    deadline = time.monotonic() + 5
    _, err = process.communicate(timeout=10)
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)
    if end == signal.SIGINT:
        # One traceback, of the parent alone, and nothing of leaks.
        assert err.count("Traceback") == 1, err
        assert err.rstrip().endswith("KeyboardInterrupt"), err
    else:
        assert err == ""
