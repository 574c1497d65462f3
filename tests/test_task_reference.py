"""A reference's curve, read by share of the budget."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trainpilot.agents.references import read_references, write_references
from trainpilot.envs.guard import hopeless
from trainpilot.envs.levels import LOWEST_LEVEL, START_LEVEL
from trainpilot.envs.limits import GuardConfig
from trainpilot.envs.task_reference import RowReferences, TaskReference
from trainpilot.inner_tasks import TrainpilotError

FALLING = TaskReference((-1.0, -2.0))
LONGER = TaskReference((0.0, -0.5, -0.5, -1.0))


def test_its_final_level_and_span_are_those_of_its_end():
    assert FALLING.final_level == -2.0
    assert FALLING.span == START_LEVEL + 2.0
    assert TaskReference((0.5,)).span == 0.3
    assert TaskReference().final_level == LOWEST_LEVEL


def test_it_is_read_between_decisions_and_by_rows():
    rows = RowReferences(2)
    assert not rows.known.any()
    rows.put(FALLING, [0])
    rows.put(LONGER, [1])
    assert rows.known.all()
    assert (rows[0], rows[1]) == (FALLING, LONGER)
    np.testing.assert_allclose(rows.at(np.zeros(2)), START_LEVEL)
    np.testing.assert_allclose(rows.at(np.full(2, 0.25)), [(START_LEVEL - 1) / 2, 0.0])
    np.testing.assert_allclose(rows.at(np.full(2, 0.75)), [-1.5, -0.5])
    np.testing.assert_allclose(rows.at(np.ones(2)), [-2.0, -1.0])
    np.testing.assert_allclose(rows.area(np.zeros(2)), 0.0)
    np.testing.assert_allclose(rows.area(np.full(2, 0.5)), [-0.5, -0.125])
    np.testing.assert_allclose(rows.area(np.ones(2)), [-1.5, -0.5])


@pytest.mark.parametrize(
    ("curve", "message"),
    [((), "at least one level; given: none"), ((-1.0, float("nan")), "must be finite")],
)
def test_a_curve_that_says_nothing_is_refused(curve, message):
    with pytest.raises(TrainpilotError, match=message):
        TaskReference(curve)


def test_references_are_written_and_read(tmp_path):
    path = tmp_path / "references.json"
    write_references(path, {"one": FALLING, "two": LONGER})
    assert read_references(path) == {"one": FALLING, "two": LONGER}
    for content in ({"one": -2.0}, {"one": [None]}, {"one": []}, [1]):
        path.write_text(json.dumps(content))
        with pytest.raises(TrainpilotError, match=r"a list of levels for each task; given: .*json"):
            read_references(path)


def test_a_run_is_hopeless_by_what_the_reference_had_made_by_then():
    config = GuardConfig(hopeless_share=0.5, hopeless_after=0.1)

    def judged(progress, improvement, made):
        arrays = [np.array([value]) for value in (progress, improvement, made)]
        return bool(
            hopeless(config, arrays[0], START_LEVEL - arrays[1], START_LEVEL - arrays[2])[0]
        )

    assert judged(0.2, 0.04, made=0.1)  # little, where the reference had made little
    assert not judged(0.2, 0.06, made=0.1)
    assert judged(0.2, 0.06, made=1.0)  # the same, where it had made much
    assert not judged(0.05, 0.0, made=1.0)  # too early to judge
    assert not judged(1.0, 0.0, made=1.0)  # too late to save anything
    # Nobody is judged by a reference that has not improved itself.
    assert not judged(0.2, -0.5, made=-1.0)
    assert not judged(0.2, -0.5, made=0.0)
