"""The guard: watches every run for divergence and for want of hope."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainpilot.envs.hyperparameters import FloatArray, IntArray
from trainpilot.envs.interventions import Reason
from trainpilot.envs.levels import START_LEVEL
from trainpilot.envs.limits import GuardConfig
from trainpilot.envs.signals import Signals


class Findings(NamedTuple):
    """What the guard finds wrong with each run, `(n_runs,)` each.

    Attributes:
        reason: a `Reason`; 0 where it is content.
        ratio: how many times its start what exploded has become; NaN for other reasons.
        sound: nothing is wrong, nor was any limit passed for a moment: the weights are such
            as a run may be rolled back to.
    """

    reason: IntArray
    ratio: FloatArray
    sound: NDArray[np.bool_]

    @property
    def any(self) -> NDArray[np.bool_]:
        """Runs with which something is wrong, `(n_runs,)`."""
        return self.reason > 0


class Guard:
    """Says which runs have diverged and why, and counts how often each was rolled back.

    One number that is not finite is enough. What is finite is compared with the run's own
    start: the valid loss at the initial weights, the rest at the first micro-batch, or at the
    first after a roll-back where that is more.

    Args:
        config: the thresholds.
        n_runs: number of runs.

    Attributes:
        roll_backs: how often each run was rolled back, `(n_runs,)`.
    """

    def __init__(self, config: GuardConfig, n_runs: int) -> None:
        self._config = config
        self.roll_backs: IntArray = np.zeros(n_runs, dtype=np.int64)
        self._valid_start = np.full(n_runs, np.nan)
        self._starts = np.full((3, n_runs), np.nan)
        self._restored = np.zeros(n_runs, dtype=bool)

    def reset(self, rows: NDArray[np.bool_], valid_loss: FloatArray) -> None:
        """Runs begin anew in these rows.

        Args:
            rows: which, `(n_runs,)`.
            valid_loss: at the initial weights, `(n_runs,)`; read in these rows alone.
        """
        self.roll_backs[rows] = 0
        self._valid_start[rows] = valid_loss[rows]
        self._starts[:, rows] = np.nan
        self._restored[rows] = False

    @property
    def wants_first(self) -> NDArray[np.bool_]:
        """Runs whose next micro-batch says what later ones are compared with, `(n_runs,)`."""
        return self._restored | ~_is_start(self._starts).all(0)

    def state_dict(self) -> dict[str, Tensor]:
        """All that later judgements depend on."""
        arrays = {
            "roll_backs": self.roll_backs,
            "valid_start": self._valid_start,
            "starts": self._starts,
            "restored": self._restored,
        }
        return {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}

    def start_valid(self, valid_loss: FloatArray) -> None:
        """Compare later valid losses with these, `(n_runs,)`, where none was known at the start."""
        self._valid_start = np.where(np.isnan(self._valid_start), valid_loss, self._valid_start)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        self.roll_backs = state["roll_backs"].cpu().numpy().copy()
        self._valid_start = state["valid_start"].cpu().numpy().copy()
        self._starts = state["starts"].cpu().numpy().copy()
        self._restored = state["restored"].cpu().numpy().copy()

    def judge(
        self,
        signals: Signals,
        valid_loss: FloatArray,
        outer_valid_loss: FloatArray,
        first: FloatArray | None = None,
    ) -> Findings:
        """What is wrong with each run after a decision.

        Args:
            signals: of the decision's inner steps, `(n_runs, n_steps)` each.
            valid_loss: after them, `(n_runs,)`.
            outer_valid_loss: likewise.
            first: train loss, gradient norm and parameter norm at the first micro-batch since the
                last decision, `(3, n_runs)`, where `signals` are not of all (default: the first
                of them).
        """
        watched = (signals.train_loss, signals.gradient_norm, signals.parameter_norm)
        if first is None:
            first = np.stack([signal[:, 0] for signal in watched])
        self._starts = np.where(_is_start(self._starts), self._starts, first)
        # Good weights that give so much say that the data is another.
        risen = self._restored & np.isfinite(first) & (self._starts > 0)
        self._starts = np.where(risen, np.fmax(self._starts, first), self._starts)
        self._restored[:] = False
        # The smallest of the decision: what comes back from a peak by itself has not diverged.
        lowest = _ratio(np.stack([signal.min(1) for signal in watched]), self._starts)
        valid = _ratio(valid_loss, self._valid_start)
        unknown = np.full_like(valid, np.nan)
        config = self._config
        ratios = config.max_train_loss_ratio, config.max_gradient_ratio, config.max_parameter_ratio
        limits = np.array([_limit(ratio) for ratio in ratios])[:, None]
        # In the order of the reasons; the update is NaN where there was none.
        findings = (
            (~np.isfinite(signals.train_loss).all(1), unknown),
            (~np.isfinite(signals.gradient_norm).all(1), unknown),
            (~np.isfinite(signals.parameter_norm).all(1), unknown),
            (np.isinf(signals.update_norm).any(1), unknown),
            (~np.isfinite(valid_loss), unknown),
            (~np.isfinite(outer_valid_loss), unknown),
            (valid > _limit(config.max_loss_ratio), valid),
            *zip(lowest > limits, lowest, strict=True),
        )
        holds = [found for found, _ in findings]
        reasons = list(range(Reason.TRAIN_LOSS_NOT_FINITE, Reason.HOPELESS))
        # A last update too large for the parameters shows in no later micro-batch.
        reached = (*watched[:2], np.fmax(signals.parameter_norm, signals.update_norm))
        highest = _ratio(np.stack([signal.max(1) for signal in reached]), self._starts)
        return Findings(
            reason=np.select(holds, reasons, Reason.NONE).astype(np.int64),
            ratio=np.select(holds, [ratio for _, ratio in findings], np.nan),
            sound=~np.any(holds, axis=0) & (highest <= limits).all(0),
        )

    def roll_back(self, wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the runs with which something is wrong are rolled back; it is counted.

        Args:
            wrong: `(n_runs,)`.

        Returns:
            `(n_runs,)`; the others are to be ended.
        """
        allowed = self._config.on_divergence == "roll_back"
        chosen = wrong & (self.roll_backs < self._config.max_roll_backs) & allowed
        self.roll_backs = self.roll_backs + chosen
        self._restored = self._restored | chosen
        return chosen


def _limit(ratio: float | None) -> float:
    return float("inf") if ratio is None else ratio


def _is_start(starts: FloatArray) -> NDArray[np.bool_]:
    """Which are known; with one below 0, as some losses have it, nothing is compared."""
    return np.asarray(np.isfinite(starts) & (starts != 0))


def _ratio(values: FloatArray, starts: FloatArray) -> FloatArray:
    """How many times its start each is; 0 where that says nothing, the start being 0."""
    with np.errstate(all="ignore"):
        return np.asarray(np.where(starts > 0, values / starts, 0.0))


def hopeless(
    config: GuardConfig, progress: FloatArray, level_now: FloatArray, reference_level: FloatArray
) -> NDArray[np.bool_]:
    """Which runs have improved too little, beside their reference, to be worth their budget.

    Args:
        config: the thresholds.
        progress: share of each run's budget that is spent, `(n_runs,)`.
        level_now: level of `outer_valid` (`trainpilot.envs.levels`), `(n_runs,)`.
        reference_level: level that the reference had at the same progress, `(n_runs,)`.

    Returns:
        `(n_runs,)`.
    """
    improvement, expected = START_LEVEL - level_now, START_LEVEL - reference_level
    late = (progress >= config.hopeless_after) & (progress < 1)
    # Nobody is hopeless while the reference itself has not improved.
    behind = (expected > 0) & (improvement < config.hopeless_share * expected)
    return np.asarray(late & behind & (config.hopeless_share > 0))
