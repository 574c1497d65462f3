"""What the benchmarks measure by reaching into the library is still there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    """Its files import each other by their names alone."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (FOLDER / f"{name}.py").exists():
            del sys.modules[name]


@pytest.mark.usefixtures("benchmarks")
def test_parts_of_the_engine_are_found_and_timed(monkeypatch):
    import observation
    import speed

    for module in (observation, speed):
        monkeypatch.setattr(module, "TURNS", 1)
    shares = observation.share_of_the_observation(4)
    parts = ("signals_share", "features_share", "evaluation_share")
    assert all(0 < shares[name] < 1 for name in parts)
    engine = speed.new_engine(speed.SUBJECTS["mlp"](), 4)
    steps = speed.parts_of_a_step(engine, speed.mixed(4))
    assert steps["whole"] > 0
    assert steps["forward"] > 0


@pytest.mark.usefixtures("benchmarks")
def test_what_a_pilot_costs_can_be_measured(monkeypatch):
    import pilot

    monkeypatch.setattr(pilot, "SUBJECTS", {"mlp": (pilot.mlp, (8, 64), 1, 1)})
    measured = pilot.measure("mlp")
    assert measured["step_seconds"] > 0
    assert set(measured["overhead"]) == {"300", "1000", "3000", "20000", "unknown"}
    # Parameters and Adam's two moments, and what is counted.
    assert measured["snapshot_bytes_over_parameters"] == pytest.approx(3, abs=0.01)


def _results(speedups, losses, runs=()):
    """Results of an evaluation, as far as the bars read them."""
    found = {"geomean": 2.0, "ci_low": 1.5, "ci_high": 2.5, "worst": min(speedups.values())}
    ratio = {"ratio": 1.2, "ci_low": 1.1, "ci_high": 1.3}
    rivals = ("shared_fixed", "shared_cosine", "oracle_fixed", "oracle_cosine", "policy_open_loop")
    rivals += ("rate_only", "shared_muon")
    references = ("adam_default", "shared_fixed", "shared_cosine", "oracle_fixed")

    def tasks(change):
        return {
            name: {
                "speedup": {"adam_default": speedup * change},
                "final_test_loss": losses[name] * change,
            }
            for name, speedup in speedups.items()
        }

    policy = {
        "speedup": dict.fromkeys(references, found),
        "against": {rival: dict.fromkeys(references, ratio) for rival in rivals},
        "tasks": tasks(1),
    }
    summary = {"policy": policy, "shared_cosine": {"tasks": tasks(1.1)}}
    return {"summary": summary | {"random_search_4x": {"tasks": tasks(0.9)}}, "runs": list(runs)}


@pytest.mark.usefixtures("benchmarks")
def test_bars_are_what_they_say(monkeypatch, tmp_path, capsys):
    import bars

    def run(loss, diverged=False):
        target = {"adam_default": {"target": 1.0}}
        return {
            "controller": "policy",
            "diverged": diverged,
            "final_outer_valid_loss": loss,
            "to_target": target,
        }

    results = _results(
        {"one": 3.0, "other": 0.5},
        {"one": 0.1, "other": 0.2},
        [run(1.04), run(1.06), run(0.5), run(0.5, diverged=True)],
    )
    monkeypatch.setattr(bars, "evaluate", lambda *_: results)
    monkeypatch.setattr(sys, "argv", ["bars.py", "--out", str(tmp_path)])
    bars.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "speed-up over Adam at 1e-3, to its final loss: 2.00 (1.50 to 2.50), 3 needed: NOT reached"
    )
    assert "speed-up over shared_cosine, to Adam's final loss: 1.20 (1.10 to 1.30)" in lines[5]
    assert "worst task: 0.50, 0.8 needed: NOT reached" in lines[9]
    assert "no higher than the best cosine's: 1.00, 0.9 needed: reached" in lines[10]
    assert "random search with 4 times the samples: 1.00, 0.7 needed: reached" in lines[11]
    assert lines[12] == "speed-up over rate_only, to Adam's final loss: 1.20 (1.10 to 1.30)"
    assert lines[15].startswith("speed-up over shared_muon, to the best cosine's final loss: 1.20")
    assert [line.split(": ")[1] for line in lines[16:20]] == ["0.50, 0.95 needed"] * 4
    assert lines[20] == "share of 4 runs that do not diverge: 0.75, 1 needed: NOT reached"
    assert lines[23] == (
        "speed-up over best cosine for meta_train, to its final loss, a hundred seeds: 2.00 (1.50 "
        "to 2.50), 1.15 needed: reached"
    )
    assert len(lines) == 25
    assert (tmp_path / "bars.json").is_file()
