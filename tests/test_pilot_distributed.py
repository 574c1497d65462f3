"""The pilot in distributed training and around compiled models."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from trainpilot import Pilot

RANK = """
    import json, sys
    import torch
    from torch import distributed, nn
    from torch.nn.parallel import DistributedDataParallel
    from trainpilot import Pilot

    torch.set_num_threads(1)
    rank = int(sys.argv[1])
    distributed.init_process_group(
        "gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)))
    # Only one of them has a validation set.
    numbers = iter(range(1, 100))
    validate = (lambda: float(next(numbers))) if rank == 0 else None
    optimizer = Pilot.load().attach(model, 60, decisions=12, validate=validate)
    data = torch.Generator().manual_seed(rank)
    for step in range(60):
        inputs = torch.randn(16, 4, generator=data)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
    weights = [tensor.flatten().tolist() for tensor in model.state_dict().values()]
    print(json.dumps([optimizer.decisions, weights]))
    distributed.destroy_process_group()
"""


def test_all_processes_take_the_same_decisions(tmp_path):
    (tmp_path / "rank.py").write_text(textwrap.dedent(RANK))
    ranks = [
        subprocess.Popen(
            [sys.executable, tmp_path / "rank.py", str(rank), tmp_path / "meeting"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    (one, weights), (other, same) = (json.loads(output) for output in outputs)
    assert one == other
    assert weights == same
    assert len(one) == 12
    assert len({record["learning_rate"] for record in one}) > 1
    assert [record["valid_loss"] for record in one] == [2 + number for number in range(12)]


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_trains_as_it_is():
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        used = torch.compile(model, backend="aot_eager") if compiled else model
        optimizer = Pilot.load().attach(used, 60, decisions=12)
        for _ in range(60):
            inputs = torch.randn(16, 4)
            loss = (used(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(loss=loss)
        losses.append([record["train_loss"] for record in optimizer.decisions])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
