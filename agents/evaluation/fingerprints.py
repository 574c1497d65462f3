"""What a run depends on, as hashes: equal hashes mean equal runs."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from trainpilot.envs.config import EnvConfig
from trainpilot.inner_tasks.protocol import InnerTask

#: Packages that numbers come from.
_PACKAGES = ("numpy", "torch")
_SOURCES = (".py", ".cpp", ".h")


def fingerprint_of_task(task: InnerTask) -> str:
    """Of a task's name, data, model, initial weights and code.

    Args:
        task: the inner task.
    """
    digest = hashlib.sha256()
    digest.update(f"{task.name}/{task.micro_batch_size}/{code_of(type(task))}".encode())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.make_model()
    digest.update(repr(model).encode())
    loss = getattr(task.loss, "__func__", task.loss)
    digest.update(code_of(loss).encode())
    tensors = [tensor for split in task.splits for tensor in split]
    for tensor in [*tensors, *model.state_dict().values()]:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def fingerprint_of_contender(made: Any) -> str | None:
    """Of a controller or method as it was made.

    Args:
        made: what says its own by a method `fingerprint()`, or holds nothing but plain data.

    Returns:
        None if it cannot be known what it depends on.
    """
    if hasattr(made, "fingerprint"):
        return str(made.fingerprint())
    try:
        settings = json.dumps(vars(made), sort_keys=True)
    except (TypeError, ValueError):
        return None
    return _hash(f"{code_of(type(made))}{settings}")


def fingerprint_of_setting(config: EnvConfig) -> str:
    """Of the environment's configuration, trainpilot's own code and the packages it computes by."""
    versions = [version(package) for package in _PACKAGES]
    return _hash(json.dumps([asdict(config), versions, _own_code()], sort_keys=True))


def code_of(thing: Any) -> str:
    """A name, and the hash of the file that it stands in where that is not trainpilot's own.

    Args:
        thing: a class or function.
    """
    module = str(getattr(thing, "__module__", ""))
    name = f"{module}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
    if module.split(".")[0] == "trainpilot":
        return name
    try:
        source = inspect.getsourcefile(thing)
    except TypeError:
        source = None
    return name if source is None else f"{name}/{_hash_of_file(Path(source))}"


@cache
def _own_code() -> str:
    """Of all code that a run may depend on; what only draws reports is not among it."""
    digest = hashlib.sha256()
    for package in ("envs", "inner_tasks", "agents"):
        root = Path(str(files(f"trainpilot.{package}")))
        for path in sorted(root.rglob("*")):
            place = path.relative_to(root)
            if path.suffix in _SOURCES and "report" not in place.parts:
                digest.update(f"{package}/{place}".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _hash_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
