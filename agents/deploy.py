"""`trainpilot deploy`: train a task's model under a controller."""

from __future__ import annotations

from omegaconf import DictConfig
from safetensors.torch import save_file

from trainpilot.agents.config import DeployConfig, check_seed
from trainpilot.agents.controllers import make_controllers
from trainpilot.agents.files import atomic_path, write_json
from trainpilot.agents.hydra_app import output_folder, run_app, say, typed
from trainpilot.agents.picture import draw_runs
from trainpilot.agents.pilot.on_task import train_on_task
from trainpilot.agents.progress import ProgressBar
from trainpilot.agents.records import write_decisions
from trainpilot.agents.run import Run
from trainpilot.inner_tasks.catalogue import make_task
from trainpilot.inner_tasks.errors import TrainpilotError, require


def deploy(config: DeployConfig) -> None:
    """Train under one controller; leaves weights, records, a picture and a result."""
    folder = output_folder()
    check_seed(config.seed)
    config.env.validate()
    controllers = make_controllers(config.controller)
    require(len(controllers) == 1, "deploy takes one controller", ", ".join(controllers))
    task = make_task(config.task)
    done = 0
    with ProgressBar(f"training {task.name}", config.env.decisions) as progress:

        def advance() -> None:
            nonlocal done
            done += 1
            progress.update(done)

        ((name, controller),) = controllers.items()
        run, model = train_on_task(
            task,
            controller,
            config.seed,
            config.env,
            name=name,
            farthest=config.farthest,
            on_decision=advance,
        )
    # An earlier deployment's result must not stand beside this one's decisions.
    for name in ("model.safetensors", "deployment.json"):
        (folder / name).unlink(missing_ok=True)
    write_decisions(folder / "decisions.parquet", [run])
    draw_runs(folder / "run.png", [run])
    if run.diverged:
        raise TrainpilotError(
            f"the training of '{task.name}' must stay finite; given: a run that diverged after "
            f"{run.samples[-1]:,} samples (its decisions are in {folder})"
        )
    with atomic_path(folder / "model.safetensors") as temporary:
        # Weights that a model ties together are written for each of their names.
        weights = {name: value.cpu().clone() for name, value in model.state_dict().items()}
        save_file(weights, temporary, {"task": task.name})
    write_json(
        folder / "deployment.json",
        {
            "task": task.name,
            "controller": run.controller,
            "seed": run.seed,
            "samples": run.samples[-1],
            "roll_backs": run.roll_backs,
            "overruled": sum(bool(record["overruled"]) for record in run.decisions),
            "final_valid_loss": run.valid_loss[-1],
            "final_test_loss": run.test_loss,
            "test_metrics": run.test_metrics,
        },
    )
    print(_describe(run))
    say(f"model.safetensors, decisions.parquet and run.png are in {folder}")


def _describe(run: Run) -> str:
    metrics = "".join(
        f", test {name.replace('_', ' ')} {value:.3f}" for name, value in run.test_metrics.items()
    )
    # Worth a word only where it happened.
    roll_backs = f", {run.roll_backs} roll-backs" if run.roll_backs else ""
    return (
        f"{run.task} under {run.controller}: {len(run.decisions)} decisions, "
        f"{run.samples[-1]:,} samples{roll_backs}, test loss {run.test_loss:.4f}{metrics}"
    )


def _job(config: DictConfig) -> None:
    deploy(typed(config, DeployConfig))


def main() -> None:
    """The command."""
    run_app("deploy", _job)


if __name__ == "__main__":
    main()
