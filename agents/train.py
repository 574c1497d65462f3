"""`trainpilot train`: meta-train a policy."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import version
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainpilot.agents.config import TrainConfig
from trainpilot.agents.hydra_app import output_folder, run_app, say, typed
from trainpilot.agents.meta_training import (
    CHECKPOINT,
    learn,
    make_agent,
    make_groups,
    require_checkpoint,
    resume_agent,
)
from trainpilot.agents.policy_file import save_policy
from trainpilot.inner_tasks.catalogue import make_task
from trainpilot.inner_tasks.errors import require


def train(config: TrainConfig) -> None:
    """Meta-train on a suite; leaves `policy.safetensors` in the run's folder."""
    folder = output_folder()
    config.agent.validate()
    config.env.validate()
    require(len(config.suite.tasks) > 0, "a suite must hold at least one task", "none")
    tasks = [make_task(task, name) for name, task in config.suite.tasks.items()]
    if config.resume:
        require_checkpoint(folder / CHECKPOINT)
    else:
        # What an earlier run left in this folder must not be mixed with this one.
        for stale in ("checkpoints", "tensorboard"):
            shutil.rmtree(folder / stale, ignore_errors=True)
        for name in ("references.json", "policy.safetensors"):
            (folder / name).unlink(missing_ok=True)
    groups = make_groups(tasks, config.env, config.agent, folder)
    agent = (
        resume_agent(groups, folder / CHECKPOINT, config.seed)
        if config.resume
        else make_agent(groups, config.agent, config.seed)
    )
    say(
        f"meta-training on {len(groups)} tasks, {groups[0].n_runs} inner runs each, "
        f"inner steps {'compiled' if config.env.compiled else 'not compiled'}; "
        f"curves: tensorboard --logdir {folder / 'tensorboard'}"
    )
    try:
        learn(agent, groups, config.agent, folder, resumed=config.resume)
    except KeyboardInterrupt:
        say(
            f"interrupted after {agent.num_timesteps:,} decisions; nothing is lost: give the same "
            f"command with hydra.run.dir={folder} resume=true to go on"
        )
        raise
    path = folder / "policy.safetensors"
    save_policy(
        path,
        agent.policy,
        groups[0].actions,
        list(config.agent.hidden),
        _training(config, agent.num_timesteps),
    )
    say(f"learned from {agent.num_timesteps:,} decisions; the policy is {path}")


def _training(config: TrainConfig, decisions: int) -> dict[str, Any]:
    """How a policy came about, for its metadata."""
    packages = ("trainpilot", "torch", "stable_baselines3", "gymnasium", "numpy")
    return {
        "suite": config.suite.name,
        "tasks": list(config.suite.tasks),
        "decisions": decisions,
        "seed": config.seed,
        "config": OmegaConf.to_container(OmegaConf.structured(config), resolve=True),
        "versions": {name: version(name) for name in packages}
        | {"python": platform.python_version()},
    }


def _job(config: DictConfig) -> None:
    train(typed(config, TrainConfig))


def main() -> None:
    """The command."""
    run_app("train", _job)


if __name__ == "__main__":
    main()
