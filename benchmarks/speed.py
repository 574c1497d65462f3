"""How fast one engine is: beside the plain loop, and beside what the processor can do."""

from __future__ import annotations

import time
from statistics import median
from typing import Any
from unittest import mock

from engines import STEPS, flops_of_a_step, mixed, new_engine, stepper
from left_out import no_update, update_without_sums, with_update
from measuring import TURNS, MultiplyPeak, Timed, in_turns, median_difference, median_ratio
from subjects import SUBJECTS, plain_loop

from trainpilot.envs.engine import Engine
from trainpilot.envs.hyperparameters import Hyperparameters
from trainpilot.inner_tasks.protocol import Split

#: Steps of the loop and decisions of the engine in a turn: about as long for the one as for the
#: other, and all turns within a budget.
LENGTHS = {"mlp": (150, 5), "cnn": (60, 1), "charlm": (150, 5), "transformer": (150, 1)}


def against_the_loop(name: str, n_runs: int = 48) -> dict[str, Any]:
    """Inner steps a second of the engine and of the plain loop, both with Adam alone.

    Beside it with the whole menu of optimizers, each run with one of its own, and the share of
    the matrix-multiply peak; the arithmetic is that which torch would do.
    """
    task = SUBJECTS[name]()
    start = time.perf_counter()
    engine = new_engine(task, n_runs, ["adam"])
    started = time.perf_counter() - start
    whole_menu = new_engine(task, n_runs)
    loop, peak = plain_loop(task), MultiplyPeak()
    n_loop, n_decisions = LENGTHS[name]
    taken = in_turns(
        {
            "loop": lambda: loop(n_loop),
            "engine": stepper(engine, n_decisions, Hyperparameters.full(n_runs)),
            "whole_menu": stepper(whole_menu, n_decisions),
            "peak": peak,
        },
        TURNS,
    )
    n_engine = n_decisions * STEPS * n_runs
    return {
        "ratio": median_ratio(taken, "loop", "engine") * n_engine / n_loop,
        "ratio_whole_menu": median_ratio(taken, "loop", "whole_menu") * n_engine / n_loop,
        "loop_steps_per_second": n_loop / median(taken["loop"]),
        "engine_steps_per_second": n_engine / median(taken["engine"]),
        **peak.compared(taken, "engine", n_engine, flops_of_a_step(task)),
        "start_seconds": started,
        "report": engine.report,
    }


def share_of_the_peak(n_runs: int = 48) -> dict[str, Any]:
    """Arithmetic of the MLP's matrix products over the peak of one thread.

    With Adam alone, as beside the loop, and with the whole menu.
    """
    task = SUBJECTS["mlp"]()
    adam, whole_menu = new_engine(task, n_runs, ["adam"]), new_engine(task, n_runs)
    settings, peak = Hyperparameters.full(n_runs), MultiplyPeak()
    taken = in_turns(
        {
            "adam": stepper(adam, 2, settings),
            "whole_menu": stepper(whole_menu, 2),
            "peak": peak,
        },
        2 * TURNS,
    )
    n_steps, flops = 2 * STEPS * n_runs, flops_of_a_step(task)
    with_adam = peak.compared(taken, "adam", n_steps, flops)
    with_menu = peak.compared(taken, "whole_menu", n_steps, flops)
    return {
        "peak_share": with_adam["peak_share"],
        "peak_share_whole_menu": with_menu["peak_share"],
        "gflops": with_adam["gflops"],
        "gflops_whole_menu": with_menu["gflops"],
        "peak_gflops": median(peak.gflops),
        "flops_per_step": float(flops),
        "microseconds_of_a_step": parts_of_a_step(adam, settings),
        "microseconds_of_a_step_whole_menu": parts_of_a_step(whole_menu, mixed(n_runs)),
    }


def parts_of_a_step(engine: Engine, settings: Hyperparameters) -> dict[str, float]:
    """Where the time of an inner step of one run goes, measured by leaving parts out."""
    trainer: Any = engine._trainer
    # Gathering and the loss are part of it.
    size = engine.task.micro_batch_size
    micro_batch = Split(*(part[:size] for part in engine.task.splits.train))
    step, training = stepper(engine, 1, settings), Timed(trainer.train)

    def timed_step() -> None:
        with mock.patch.object(trainer, "train", training):
            step()

    taken = in_turns(
        {
            "whole": timed_step,
            "without_sums": with_update(engine, update_without_sums(engine), step),
            "without_update": with_update(engine, no_update(engine), step),
            "forward": lambda: [engine.evaluate_split(micro_batch) for _ in range(STEPS)],
        },
        4 * TURNS,
    )
    taken["native"] = training.seconds[1:]
    update = median_difference(taken, "whole", "without_update")
    parts = {
        "whole": median(taken["whole"]),
        "forward": median(taken["forward"]),
        "backward": median(taken["native"]) - median(taken["forward"]) - update,
        "update": update,
        "sums_in_the_update": median_difference(taken, "whole", "without_sums"),
        "python": median_difference(taken, "whole", "native"),
    }
    return {name: 1e6 * each / STEPS / engine.n_runs for name, each in parts.items()}
