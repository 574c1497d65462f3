"""`trainpilot train`: meta-train a policy."""

from __future__ import annotations

import platform
from collections import Counter
from contextlib import closing
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from stable_baselines3 import PPO

from trainpilot.agents.config import TrainConfig, check_seed
from trainpilot.agents.files import write_json
from trainpilot.agents.hydra_app import output_folder, run_app, say, typed
from trainpilot.agents.meta_training import (
    CHECKPOINT,
    IDENTITY,
    check_resumable,
    learn,
    make_agent,
    make_groups,
    resume_agent,
)
from trainpilot.agents.policy_file import save_policy
from trainpilot.agents.references import read_references, write_references
from trainpilot.envs.observation import schema_hash
from trainpilot.envs.task_reference import TaskReference
from trainpilot.inner_tasks.catalogue import make_tasks
from trainpilot.inner_tasks.errors import require


def train(config: TrainConfig) -> float:
    """Meta-train on a suite; leaves `policy.safetensors` in the run's folder.

    Returns:
        The mean return that the policy reaches, which a sweeper of Hydra may raise.
    """
    folder = output_folder()
    check_seed(config.seed)
    config.agent.validate()
    config.env.validate()
    require(
        not config.env.actions.continuous,
        "trainpilot train learns choices, so env.actions.continuous must be false; continuous "
        "actions are for algorithms of your own on the environment",
        "true",
    )
    identity = _identity(config)
    measured = folder / "references.json"
    known: dict[str, TaskReference] = {}
    if config.references is not None:
        path = Path(config.references)
        require(path.is_file(), "references must be the path of a references.json", path)
        known = read_references(path)
    if config.resume:
        check_resumable(folder, identity)
        known |= read_references(measured) if measured.is_file() else {}
    tasks = make_tasks(config.suite.tasks)
    groups, references = make_groups(tasks, config.env, config.agent, known)
    # Whatever happens from here on, no worker is left behind.
    with closing(groups):
        if config.resume:
            agent = resume_agent(groups, folder, config.seed)
        else:
            agent = make_agent(groups, config.agent, config.seed)
            _set_aside(folder)
            write_json(folder / IDENTITY, identity)
            write_references(measured, references)
        mean_return = _learn(agent, config, folder, groups.reports)
    path = folder / "policy.safetensors"
    save_policy(
        path,
        agent.policy,
        groups.actions,
        list(config.agent.hidden),
        list(config.env.observation.hidden),
        _training(config, agent.num_timesteps),
    )
    say(f"learned from {agent.num_timesteps:,} decisions; the policy is {path}")
    return mean_return


def _learn(agent: PPO, config: TrainConfig, folder: Path, reports: dict[str, str]) -> float:
    """Let the agent learn, and tell the user where things stand."""
    n_workers = config.agent.n_workers
    workers = f" in {n_workers} worker{'s' * (n_workers > 1)}" if n_workers else ""
    n_rows = sum(config.agent.rows_by_interval(config.env).values())
    say(
        f"meta-training on {len(config.suite.tasks)} tasks, {n_rows} inner "
        f"runs each{workers}; curves: tensorboard --logdir {folder / 'tensorboard'}"
    )
    for report, n_tasks in Counter(reports.values()).items():
        say(f"{n_tasks} task{'s' * (n_tasks > 1)}: {report}")
    try:
        return learn(agent, config.agent, folder, resumed=config.resume)
    except KeyboardInterrupt:
        if (folder / CHECKPOINT).is_file():
            say(
                f"interrupted after {agent.num_timesteps:,} decisions, which are kept: give the "
                f"same command with hydra.run.dir={folder} resume=true to go on"
            )
        raise


def _identity(config: TrainConfig) -> dict[str, Any]:
    """The settings that must stay the same for a training to go on, by dotted name."""
    settings: Any = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    # How long, how often to save and how fast to run may change.
    for group, name in (
        ("agent", "total_decisions"),
        ("agent", "checkpoint_seconds"),
        ("agent", "n_workers"),
        ("env", "compiled"),
    ):
        del settings[group][name]
    del settings["resume"], settings["references"]
    return {"observation schema": schema_hash(), **_flatten(settings)}


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _set_aside(folder: Path) -> None:
    """Move what an earlier training left in this folder to `previous-N`: nothing is lost."""
    names = ("checkpoints", "tensorboard", "references.json", "policy.safetensors")
    left = [folder / name for name in names if (folder / name).exists()]
    if not left:
        return
    previous = next(
        path for number in count(1) if not (path := folder / f"previous-{number}").exists()
    )
    previous.mkdir()
    for path in left:
        path.rename(previous / path.name)
    say(f"an earlier training in this folder was moved to {previous}")


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


def _job(config: DictConfig) -> float:
    return train(typed(config, TrainConfig))


def main() -> None:
    """The command."""
    run_app("train", _job)


if __name__ == "__main__":
    main()
