"""Who takes part in an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf

from trainpilot.agents.controller import Controller
from trainpilot.agents.evaluation.method import Method
from trainpilot.agents.policy import PolicyController
from trainpilot.inner_tasks.building import build
from trainpilot.inner_tasks.catalogue import option
from trainpilot.inner_tasks.errors import require, unknown

#: What a contender knows or costs beside a run: the report tells them apart.
KINDS = ("policy", "heuristic", "adaptive", "shared", "search", "oracle", "ablation")


@dataclass(frozen=True)
class Contender:
    """One that takes part.

    Attributes:
        name: in tables; a method may fill several lines under names of its own.
        kind: one of `KINDS`.
        description: a sentence.
        made: who decides, or trains.
    """

    name: str
    kind: str
    description: str
    made: Controller | Method

    @property
    def lines(self) -> list[str]:
        """Names of the lines of the table that it fills."""
        return self.made.names(self.name) if isinstance(self.made, Method) else [self.name]


def make_contenders(controllers: Mapping[str, Any], methods: Mapping[str, Any]) -> list[Contender]:
    """Those that the groups `controller` and `method` describe.

    Args:
        controllers: by name, each with `_target_` and its arguments.
        methods: likewise.

    Raises:
        TrainpilotError: if one cannot be made.
    """
    made: list[Contender] = []
    for name, config in controllers.items():
        controller = build(config, Controller, "controller", name)
        made.append(
            Contender(name, _kind(name, controller), _about("controller", name), controller)
        )
    for name, config in methods.items():
        method: Method = build(config, Method, "method", name)
        made.append(Contender(name, method.kind, _about("method", name), method))
    return made


def _kind(name: str, controller: Controller) -> str:
    if isinstance(controller, PolicyController):
        return "policy"
    return "shared" if name.startswith("shared") else "heuristic"


def _about(group: str, name: str) -> str:
    """The first line of the file that ships, without its mark; nothing for a user's own."""
    path = files("trainpilot.conf") / group / f"{name}.yaml"
    if not path.is_file():
        return ""
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


#: The line of the table that stands for each reference, and the option that fills it.
_REFERENCES = {
    "adam_default": ("adam", "controller", "adam"),
    "shared_fixed": ("shared_fixed", "controller", "shared_fixed"),
    "shared_cosine": ("shared_cosine", "controller", "shared_cosine"),
    "oracle_fixed": ("oracle_fixed", "method", "oracle"),
}


def complete(
    contenders: Sequence[Contender], references: Sequence[str]
) -> tuple[list[Contender], dict[str, str]]:
    """Those that were asked for, and those that references need beside them.

    Args:
        contenders: that were asked for.
        references: of `trainpilot.agents.config.REFERENCES`.

    Returns:
        All contenders; by reference, the line of the table that stands for it.

    Raises:
        TrainpilotError: if a reference is unknown, or two lines have the same name.
    """
    found = list(contenders)
    lines: dict[str, str] = {}
    for reference in references:
        if reference not in _REFERENCES:
            raise unknown("reference", reference, list(_REFERENCES))
        line, group, name = _REFERENCES[reference]
        config = {name: OmegaConf.to_container(option(group, name)[name], resolve=True)}
        made = make_contenders(**{"controllers": {}, "methods": {}, f"{group}s": config})[0]
        taken = {each for other in found for each in other.lines}
        if not any(line in each.lines and each.made == made.made for each in found):
            # One of that name with other settings is a rival like any other: the reference stays
            # what it is, under its own name.
            if not taken.isdisjoint(made.lines):
                place = made.lines.index(line)
                made = replace(made, name=f"reference_{name}")
                line = made.lines[place]
            found.append(made)
        lines[reference] = line
    names = [line for each in found for line in each.lines]
    for line in names:
        require(names.count(line) == 1, "every line of an evaluation must have its own name", line)
    return found, lines
