"""An MLP on a table in an accelerate loop (`pip install trainpilot[accelerate,tasks]`)."""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from side_by_side import evaluate, splits
from table_mlp import mlp, table
from torch.nn import functional
from torch.utils.data import DataLoader

from trainpilot.agents.integrations.accelerate import attach

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = splits(*table())
    accelerator = Accelerator(
        cpu=True, gradient_accumulation_steps=2, log_with="tensorboard", project_dir="outputs"
    )
    accelerator.init_trackers("accelerate_loop")
    loader = DataLoader(data["train"], 32, shuffle=True)
    model = mlp()
    # An epoch's last batches make an update even where they are fewer than two.
    updates = arguments.epochs * -(-len(loader) // accelerator.gradient_accumulation_steps)
    pilot = attach(accelerator, model, updates)
    model, optimizer, loader = accelerator.prepare(model, pilot, loader)
    for epoch in range(1, arguments.epochs + 1):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                accelerator.backward(functional.cross_entropy(model(inputs), targets))
                optimizer.step()
                optimizer.zero_grad()
        with pilot.averaged():
            valid_loss, accuracy = evaluate(model, data["valid"])
        pilot.observe(valid_loss, accuracy)
        if epoch % 5 == 0:
            print(f"epoch {epoch}: validation loss {valid_loss:.4f}, accuracy {accuracy:.1%}")
    pilot.load_averaged()
    accelerator.end_training()
    rates = [f"{record['learning_rate']:.1e}" for record in pilot.decisions]
    print("learning rates:", " ".join(rates))
    print("the decisions are in outputs/accelerate_loop: tensorboard --logdir outputs")
