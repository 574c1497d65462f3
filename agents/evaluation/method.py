"""What takes part in an evaluation without being a controller: other optimizers, searches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from trainpilot.agents.run import Run
from trainpilot.envs.config import EnvConfig
from trainpilot.inner_tasks.protocol import InnerTask


@runtime_checkable
class Method(Protocol):
    """Trains a task's model its own way: with the runs' own weights, data order and budget.

    Attributes:
        kind: what it knows or costs beside a run: "adaptive", "search" or "oracle".
    """

    kind: str

    def names(self, name: str) -> list[str]:
        """The lines of the table that it fills.

        Args:
            name: of the method in the configuration.
        """
        ...

    def n_decisions(self, n_seeds: int, config: EnvConfig) -> int:
        """How often `train` calls `on_decision`: for each decision of each run, about."""
        ...

    def train(
        self,
        name: str,
        task: InnerTask,
        seeds: Sequence[int],
        config: EnvConfig,
        on_decision: Callable[[], None] = lambda: None,
    ) -> list[Run]:
        """Train with every seed.

        Args:
            name: as for `names`.
            task: the inner task.
            seeds: of the runs; a seed means the weights and the data order that it means for
                a controller.
            config: of the environment.
            on_decision: called for each run's decision, for progress.

        Returns:
            A finished run for each of `names` and seed, the same whichever other seeds there are.
        """
        ...
