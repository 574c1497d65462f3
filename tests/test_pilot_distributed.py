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
    import json, os, sys
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
    distributed.barrier()
    sys.stdout.flush()
    os._exit(0)
"""


#: Trains 60 steps at once, then 23 and, from what rank 0 has saved, the rest. One batch of one
#: rank is not finite.
RESUMED = """
    import json, math, os, sys
    import torch
    from torch import distributed, nn
    from torch.nn.parallel import DistributedDataParallel
    from trainpilot import Pilot

    torch.set_num_threads(1)
    rank = int(sys.argv[1])
    distributed.init_process_group(
        "gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2
    )

    def begun():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        model = DistributedDataParallel(model)
        return model, Pilot.load().attach(model, 60, decisions=6, measured_steps=5, batch_size=2)

    def train(model, optimizer, steps):
        losses = []
        for step in steps:
            inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(2 * step + rank))
            if step == 33 and rank == 1:
                inputs *= math.inf
            loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(loss=loss)
            losses.append(loss.item())
        return losses

    model, optimizer = begun()
    whole = train(model, optimizer, range(60))
    expected = [whole[23:], optimizer.decisions]
    model, optimizer = begun()
    train(model, optimizer, range(23))
    if rank == 0:
        torch.save((model.state_dict(), optimizer.state_dict()), sys.argv[2] + ".pt")
    distributed.barrier()
    model, optimizer = begun()
    weights, state = torch.load(sys.argv[2] + ".pt", weights_only=True)
    model.load_state_dict(weights)
    optimizer.load_state_dict(state)
    rest = train(model, optimizer, range(23, 60))
    print(json.dumps([expected, [rest, optimizer.decisions]]))
    distributed.barrier()
    sys.stdout.flush()
    os._exit(0)
"""


def of_two_ranks(script, folder):
    """What each of two processes prints.

    They leave by `os._exit`: now and then torch aborts while an interpreter is taken down.
    """
    (folder / "rank.py").write_text(textwrap.dedent(script))
    ranks = [
        subprocess.Popen(
            [sys.executable, folder / "rank.py", str(rank), folder / "meeting"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    return [json.loads(output) for output in outputs]


def test_all_goes_on_to_the_last_bit_from_what_one_process_has_saved(tmp_path):
    one, other = of_two_ranks(RESUMED, tmp_path)
    for (losses, decisions), resumed in (one, other):
        # As text, since a loss that is not a number is not equal to itself.
        assert json.dumps(resumed) == json.dumps([losses, decisions])
        assert [record["intervention"] is None for record in decisions] == [
            True,
            True,
            True,
            False,
            True,
            True,
        ]
    assert json.dumps(one[0][1]) == json.dumps(other[0][1])


def test_all_processes_take_the_same_decisions(tmp_path):
    (one, weights), (other, same) = of_two_ranks(RANK, tmp_path)
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


@pytest.mark.filterwarnings("ignore")
def test_a_training_step_may_be_compiled_whole():
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = Pilot.load().attach(model, 60, decisions=12)

        def step(inputs, model=model, optimizer=optimizer):
            loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(loss=loss)
            return loss

        used = torch.compile(step, backend="eager") if compiled else step
        losses.append([used(torch.randn(16, 4)).item() for _ in range(60)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
