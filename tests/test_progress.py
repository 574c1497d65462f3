"""Progress without a terminal: a line from time to time, with the rest where it can be known."""

from __future__ import annotations

import pytest

from trainpilot.agents.progress import ProgressBar, clock


@pytest.fixture
def seconds(monkeypatch):
    """A clock of our own: a list of one number."""
    now = [0.0]
    monkeypatch.setattr("trainpilot.agents.progress.time.monotonic", lambda: now[0])
    return now


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_the_rest_is_told_once_enough_is_done(seconds, capsys):
    with ProgressBar("training", 1000) as bar:
        for now, done in ((11, 10), (22, 220), (30, 300), (44, 440)):
            seconds[0] = now
            bar.update(done, "moons")
        seconds[0] = 100
    # The third came too soon after the second.
    assert lines(capsys) == [
        "training: started",
        "training: 1%  moons",
        "training: 22%, 1:18 left  moons",
        "training: 44%, 0:56 left  moons",
        "training: done in 1:40",
    ]


def test_long_work_says_so_after_a_minute(seconds, capsys):
    with ProgressBar("training", 1000, done=500) as bar:
        seconds[0] = 61
        bar.update(501)
    assert lines(capsys)[1] == "training: 50%, 507:19 left  "


def test_a_duration_is_minutes_and_seconds():
    assert [clock(value) for value in (-1, 0.4, 59.6, 3600)] == ["0:00", "0:00", "1:00", "60:00"]
