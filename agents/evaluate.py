"""`trainpilot evaluate`: compare controllers on the same runs."""

from __future__ import annotations

from omegaconf import DictConfig

from trainpilot.agents.comparison import compare
from trainpilot.agents.config import EvaluateConfig, check_seed
from trainpilot.agents.controllers import make_controllers
from trainpilot.agents.files import write_json
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.hydra_app import output_folder, run_app, say, typed
from trainpilot.agents.picture import draw_runs
from trainpilot.agents.progress import ProgressBar
from trainpilot.agents.records import write_decisions
from trainpilot.agents.rollout import roll_out
from trainpilot.agents.run import Run
from trainpilot.agents.table import print_comparison
from trainpilot.inner_tasks.catalogue import make_tasks, make_trainable, one_by_one
from trainpilot.inner_tasks.errors import require


def evaluate(config: EvaluateConfig) -> None:
    """Run every controller on every task; leaves results, records and pictures.

    Every speed-up is against Adam at its default, which runs along if it was not asked for.
    """
    folder = output_folder()
    require(config.n_seeds >= 1, "n_seeds must be at least 1", config.n_seeds)
    check_seed(config.seed)
    require(
        config.seed + config.n_seeds <= 2**32,
        f"seed + n_seeds must be at most {2**32}",
        config.seed + config.n_seeds,
    )
    config.env.validate()
    controllers = make_controllers(config.controller)
    default = Constant("adam", 1e-3)
    # An `adam` with other settings is a rival like any other: the reference stays what it is.
    same = controllers.get("adam") == default
    reference = "adam" if same or "adam" not in controllers else "adam_default"
    require(
        controllers.setdefault(reference, default) == default,
        f"the name '{reference}' is that of the reference, Adam at 1e-3",
        "another controller of that name",
    )
    given = make_tasks(config.suite.tasks) if config.task is None else [make_trainable(config.task)]
    tasks = one_by_one(given, config.tasks_of_family)
    seeds = range(config.seed, config.seed + config.n_seeds)
    runs: list[Run] = []
    done = 0
    with ProgressBar("evaluating", len(tasks) * config.env.decisions) as progress:

        def advance() -> None:
            nonlocal done
            done += 1
            progress.update(done, task.name)

        for task in tasks:
            progress.update(done, task.name)
            runs += roll_out(task, controllers, seeds, config.env, advance).runs
    results = compare(runs, reference)
    write_json(folder / "results.json", results)
    write_decisions(folder / "decisions.parquet", runs)
    for task in tasks:
        shown = [run for run in runs if run.task == task.name and run.seed == config.seed]
        draw_runs(folder / f"{task.name}.png", shown)
    print_comparison(results)
    say(f"results.json, decisions.parquet and a picture for each task are in {folder}")


def _job(config: DictConfig) -> None:
    evaluate(typed(config, EvaluateConfig))


def main() -> None:
    """The command."""
    run_app("evaluate", _job)


if __name__ == "__main__":
    main()
