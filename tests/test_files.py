"""Files are whole or not there."""

from __future__ import annotations

import json

import pytest

from trainpilot.agents.files import atomic_path, write_json


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_success_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_json_is_standard_json_whatever_the_numbers(tmp_path):
    path = tmp_path / "data.json"
    write_json(path, {"a": [float("inf"), float("nan"), 1.5, True], "b": (1, None)})
    assert json.loads(path.read_text()) == {"a": [None, None, 1.5, True], "b": [1, None]}
