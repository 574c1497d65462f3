"""The policy that ships: a guard against regressions, on `meta_valid` alone."""

from __future__ import annotations

from trainpilot.agents.evaluation.results import results
from trainpilot.agents.heuristics import Constant
from trainpilot.agents.policy_file import load_policy
from trainpilot.agents.rollout import roll_out
from trainpilot.envs.config import EnvConfig
from trainpilot.inner_tasks.catalogue import load_task


def test_it_beats_adams_default_on_a_task_that_it_never_saw():
    controllers = {"policy": load_policy(), "adam": Constant("adam", 1e-3)}
    runs = roll_out(load_task("syllables_mlp"), controllers, range(100, 104), EnvConfig()).runs
    kinds = {"policy": "policy", "adam": "heuristic"}
    summary = results(
        runs,
        [{"name": "syllables_mlp"}],
        {name: {"kind": kind, "description": ""} for name, kind in kinds.items()},
        {"adam_default": "adam"},
        {"decisions": 30, "algoperf_reference": "adam_default"},
    )["summary"]["policy"]
    # Measured when it was shipped: docs/experiments.md. Two thirds of that is a regression.
    assert summary["speedup"]["adam_default"]["geomean"] > 2.4
    assert summary["divergence_rate"] == 0
    accuracy = summary["tasks"]["syllables_mlp"]["test_metrics"]["accuracy"]
    assert accuracy > 0.75
