"""`trainpilot check-task`: does a task keep the contract, and how will it be trained?"""

from __future__ import annotations

from omegaconf import DictConfig

from trainpilot.agents.config import CheckTaskConfig
from trainpilot.agents.hydra_app import run_app, typed
from trainpilot.envs.inner_runs import InnerRuns
from trainpilot.inner_tasks.catalogue import make_task
from trainpilot.inner_tasks.check import check_inner_task, notes_on
from trainpilot.inner_tasks.describing import describe_model, n_parameters


def check_task(config: CheckTaskConfig) -> str:
    """Check a task.

    Returns:
        What was found, a line for each thing.

    Raises:
        TrainpilotError: naming the first rule that the task breaks.
    """
    config.env.validate()  # before the data are read
    task = make_task(config.task)
    found = check_inner_task(task)
    engine = InnerRuns(task, 1, config.env).engine
    valid, _ = engine.evaluate()
    model = task.make_model()
    sizes = ", ".join(
        f"{name} {len(part.inputs):,}" for name, part in task.splits._asdict().items()
    )
    in_train = ", ".join(
        f"{pair.n_shared:,} of {pair.split}" for pair in found if pair.earlier == "train"
    )
    example = tuple(task.splits.train.inputs.shape[1:])
    return "\n".join(
        [
            f"{task.name} keeps the contract of an inner task",
            f"data        {task.dataset} ({task.modality}), examples of shape {example}",
            f"splits      {sizes}; micro-batches of {task.micro_batch_size}",
            f"in train    {in_train}",
            f"model       {describe_model(model)}, {n_parameters(model):,} parameters",
            f"valid loss  {valid.loss[0]:.4f} at the initial weights",
            f"engine      {engine.report}",
            *(f"note        {note}" for note in notes_on(task, found)),
        ]
    )


def _job(config: DictConfig) -> None:
    print(check_task(typed(config, CheckTaskConfig)))


def main() -> None:
    """The command."""
    run_app("check-task", _job)


if __name__ == "__main__":
    main()
