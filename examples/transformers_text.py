"""A tiny GPT-2 on Python's own documentation (`pip install trainpilot[transformers]`)."""

from __future__ import annotations

import argparse

import torch
from side_by_side import splits
from text_models import CONTEXT, N_CHARACTERS, text
from torch import Tensor
from torch.utils.data import TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from trainpilot.agents.integrations.transformers import PilotTrainer


def rows(split: TensorDataset) -> list[dict[str, Tensor]]:
    """Contexts as a language model of transformers takes them."""
    return [{"input_ids": context, "labels": context} for context in split.tensors[0]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # No weights are downloaded: these are drawn at random.
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=N_CHARACTERS, n_positions=CONTEXT, n_embd=48, n_layer=2, n_head=4,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    data = splits(*text())
    trainer = PilotTrainer(
        model,
        TrainingArguments(
            "outputs/transformers_text", max_steps=arguments.steps, learning_rate=1e-3,
            per_device_train_batch_size=32, per_device_eval_batch_size=256, use_cpu=True,
            gradient_accumulation_steps=2, eval_strategy="steps", eval_steps=50,
            logging_steps=50, save_strategy="no", report_to="tensorboard", disable_tqdm=True,
        ),
        train_dataset=rows(data["train"]),
        eval_dataset=rows(data["valid"])[:1_000],
    )  # fmt: skip
    trainer.train()
    rates = [f"{record['learning_rate']:.1e}" for record in trainer.pilot_optimizer.decisions]
    print("learning rates:", " ".join(rates))
    print("the decisions are in outputs/transformers_text: tensorboard --logdir outputs")
