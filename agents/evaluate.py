"""`trainpilot evaluate`: compare controllers on the same runs."""

from __future__ import annotations

from omegaconf import DictConfig

from trainpilot.agents.comparison import compare
from trainpilot.agents.config import EvaluateConfig
from trainpilot.agents.controllers import make_controllers
from trainpilot.agents.files import write_json
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.hydra_app import output_folder, run_app, say, typed
from trainpilot.agents.picture import draw_runs
from trainpilot.agents.progress import ProgressBar
from trainpilot.agents.records import write_decisions
from trainpilot.agents.rollout import Run, roll_out
from trainpilot.agents.table import print_comparison
from trainpilot.inner_tasks.catalogue import make_task
from trainpilot.inner_tasks.errors import require

#: Every speed-up is against this controller, which runs along if it was not asked for.
REFERENCE = "adam"


def evaluate(config: EvaluateConfig) -> None:
    """Run every controller on every task; leaves results, records and pictures."""
    folder = output_folder()
    require(config.n_seeds >= 1, "n_seeds must be at least 1", config.n_seeds)
    require(config.seed >= 0, "seed must be at least 0", config.seed)
    config.env.validate()
    controllers = make_controllers(config.controller)
    controllers.setdefault(REFERENCE, Constant("adam", 1e-3))
    configs = config.suite.tasks if config.task is None else {"task": config.task}
    require(len(configs) > 0, "a suite must hold at least one task", "none")
    tasks = [make_task(task, name) for name, task in configs.items()]
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
    results = compare(runs, REFERENCE)
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
