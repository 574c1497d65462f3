"""What a run depends on, as hashes: equal hashes mean equal runs."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainpilot.envs.config import EnvConfig
from trainpilot.inner_tasks.protocol import InnerTask

#: Packages that numbers come from.
_PACKAGES = ("numpy", "torch")
_SOURCES = (".py", ".cpp", ".h")


def fingerprint_of_task(task: InnerTask) -> str | None:
    """Of a task's name and data, and of what its model, loss and metrics make of them.

    Code that a task is made of may stand anywhere: what it computes for some examples, and how
    its loss falls with every weight, stands for it, beside the files of the working folder
    (`fingerprint_of_setting`).

    Args:
        task: the inner task.

    Returns:
        None for a task that cannot be made or trained: whoever trains it refuses it.
    """
    digest = hashlib.sha256()
    digest.update(f"{task.name}/{task.micro_batch_size}/{code_of(type(task))}".encode())
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = task.make_model()
            digest.update(repr(model).encode())
            tensors = [tensor for split in task.splits for tensor in split]
            for tensor in [*tensors, *model.state_dict().values(), *_probe(task, model)]:
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                plain = tensor.detach().cpu().reshape(-1).contiguous()
                digest.update(plain.view(torch.uint8).numpy().tobytes())
    except Exception:
        return None
    return digest.hexdigest()


def _probe(task: InnerTask, model: nn.Module) -> Iterator[Tensor]:
    """What the task computes for its first examples: outputs, loss, metrics, gradients."""
    inputs, targets = (part[: task.micro_batch_size] for part in task.splits.train)
    for training in (False, True):
        outputs = model.train(training)(inputs)
        loss = task.loss(outputs, targets)
        yield outputs
        yield loss
        yield from (value for _, value in sorted(task.metrics(outputs, targets).items()))
    trained = [each for each in model.parameters() if each.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    yield from (gradient for gradient in found if gradient is not None)


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
    """Of the environment's configuration, and of the code and the packages that compute.

    Code: trainpilot's own, and the files of the working folder that have been imported.
    """
    versions = [version(package) for package in _PACKAGES]
    settings = [asdict(config), versions, _own_code(), _users_code()]
    return _hash(json.dumps(settings, sort_keys=True))


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
    except (TypeError, OSError):
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


def _users_code() -> dict[str, str]:
    """Hashes of the modules that come from the working folder and are not installed there.

    Trainpilot's own are not among them, where the working folder is a checkout: `_own_code`
    knows which of those runs depend on.
    """
    here = Path.cwd()
    found = {}
    for name, module in sorted(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "/")
        installed = {"site-packages", "dist-packages"} & set(path.parts)
        if name.partition(".")[0] == "trainpilot":
            continue
        if path.is_relative_to(here) and not installed and path.suffix == ".py":
            found[name] = _hash_of_file(path)
    return found


def _hash_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
