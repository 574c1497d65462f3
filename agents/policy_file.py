"""`policy.safetensors`: weights and JSON metadata; loading never unpickles or runs code."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from stable_baselines3.common.policies import ActorCriticPolicy

from trainpilot.agents.files import atomic_path
from trainpilot.agents.policy import PolicyController, make_policy
from trainpilot.envs.actions import ActionSpec
from trainpilot.envs.observation import FEATURE_NAMES, SCHEMA_VERSION, schema_hash
from trainpilot.inner_tasks.errors import TrainpilotError, require

#: Policies that ship, by name.
SHIPPED = ("default", "rate_only")
_ALLOWED = "policy must be 'default', 'rate_only' or the path of a policy.safetensors"

FORMAT = "trainpilot-policy"
FORMAT_VERSION = 1


def save_policy(
    path: Path,
    policy: ActorCriticPolicy,
    actions: ActionSpec,
    hidden: list[int],
    hidden_features: list[str],
    training: dict[str, Any],
) -> None:
    """Write a policy, atomically.

    Args:
        path: of the file.
        policy: the trained networks, the normaliser's statistics among them.
        actions: what it controls.
        hidden: widths of its hidden layers.
        hidden_features: names of those that it has never seen but as 0.
        training: how it came about (suite, seeds, configuration, versions): plain data.
    """
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "observation": {
            "schema_version": SCHEMA_VERSION,
            "schema_hash": schema_hash(),
            "features": FEATURE_NAMES,
            "hidden": hidden_features,
        },
        "actions": actions.to_json(),
        "hidden": hidden,
        "normalise_observations": policy.features_extractor.normalise,
        "training": training,
    }
    # Actor and critic share the normaliser; safetensors wants each name to own its numbers.
    state = {name: value.clone() for name, value in policy.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, {"trainpilot": json.dumps(metadata)})


def load_policy(policy: str | Path = "default", deterministic: bool = True) -> PolicyController:
    """Load a policy as a controller.

    Args:
        policy: "default" or "rate_only" for those that ship, or the path of a file.
        deterministic: take the most probable choice; otherwise draw one (default: True).

    Raises:
        TrainpilotError: if the file is missing, cut short, not a policy, or made for another
            observation schema.
    """
    require(isinstance(policy, str | Path), _ALLOWED, repr(policy))
    if policy in SHIPPED:
        folder = files("trainpilot.agents") / "pretrained"
        with as_file(folder / f"{policy}.safetensors") as path:
            return _load(path, deterministic)
    return _load(Path(policy), deterministic)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a policy file, checked.

    Raises:
        TrainpilotError: as `load_policy`.
    """
    if not path.is_file():
        raise TrainpilotError(f"{_ALLOWED}; given: {path}, where there is no file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("trainpilot", "null"))
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise TrainpilotError(
            f"a policy must be a whole safetensors file; given: {path}, which is cut short or "
            f"damaged ({error})"
        ) from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise TrainpilotError(
            f"a policy file must be one that 'trainpilot train' wrote; given: {path}"
        )
    if metadata.get("format_version") != FORMAT_VERSION:
        raise TrainpilotError(
            f"this trainpilot reads policy files of format {FORMAT_VERSION}; given: {path} of "
            f"format {metadata.get('format_version')}"
        )
    missing = {"observation", "actions", "hidden"} - metadata.keys()
    if missing:
        raise TrainpilotError(
            f"a policy's metadata must hold observation, actions and hidden; given: {path} "
            f"without {', '.join(sorted(missing))}"
        )
    given = metadata["observation"].get("schema_hash")
    if given != schema_hash():
        raise TrainpilotError(
            f"this trainpilot reads policies for observation schema {schema_hash()}; given: "
            f"{path} for schema {given}"
        )
    return metadata


def _load(path: Path, deterministic: bool) -> PolicyController:
    metadata = read_metadata(path)
    actions = ActionSpec.from_json(metadata["actions"])
    # Weights are drawn before the file's are taken: nobody's own draws may change by that. A
    # policy is in single precision on the CPU, whatever new tensors are by default.
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            # Files from before there was a choice do not name it.
            normalise = bool(metadata.get("normalise_observations", True))
            networks = make_policy(actions, metadata["hidden"], normalise=normalise)
    finally:
        torch.set_default_dtype(dtype)
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        networks.load_state_dict(state)
    except RuntimeError as error:
        raise TrainpilotError(
            f"a policy's weights must fit its metadata; given: {path}, where they do not"
        ) from error
    env = metadata.get("training", {}).get("config", {}).get("env", {})
    rhythm = int(env.get("decisions", 30)), int(env.get("micro_batches_per_decision", 10))
    hidden = metadata["observation"]["hidden"]
    return PolicyController(networks, actions, deterministic, hidden, rhythm)
