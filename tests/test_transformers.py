"""The pilot in trainings of Hugging Face transformers."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import nn

from trainpilot import Pilot, TrainpilotError
from trainpilot.agents.heuristics import Constant

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
integration = import_module("trainpilot.agents.integrations.transformers")
PilotTrainer = integration.PilotTrainer


def language_model():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=17, n_positions=12, n_embd=8, n_layer=1, n_head=2, use_cache=False,
        bos_token_id=0, eos_token_id=0, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def examples(n_examples=240):
    """Sequences that count on from a number, some of them cut short."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randint(17, (n_examples, 1), generator=generator)
    tokens = (start + torch.arange(12)) % 17
    labels = tokens.clone()
    labels[::3, 6:] = -100
    return [{"input_ids": own, "labels": label} for own, label in zip(tokens, labels, strict=True)]


def trainer(folder, model=None, pilot_options=None, **how):
    defaults = {
        "per_device_train_batch_size": 8, "num_train_epochs": 2, "save_strategy": "no",
        "report_to": "none", "train_sampling_strategy": "sequential", "use_cpu": True,
        "disable_tqdm": True, "logging_strategy": "no", "learning_rate": 1e-3,
        "weight_decay": 0.1, "max_grad_norm": 0.5,
    }  # fmt: skip
    names = ("monitor", "monitor_accuracy", "compute_metrics", "eval_dataset", "pilot")
    own = {"eval_dataset": examples(16)}
    own |= {name: how.pop(name) for name in names if name in how}
    args = transformers.TrainingArguments(folder, **{**defaults, **how})
    return PilotTrainer(
        language_model() if model is None else model, args, train_dataset=examples(),
        pilot_options=pilot_options, **own,
    )  # fmt: skip


def plain_loop(own, batches_per_step, total_steps):
    """What the Trainer is to do, by hand; how it counts tokens is its own."""
    model = language_model()
    undecayed = [one for name, one in model.named_parameters() if "bias" in name or "ln_" in name]
    known = set(undecayed)
    groups = [
        {"params": [one for one in model.parameters() if one not in known]},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    optimizer = Pilot.load().attach(model, total_steps, params=groups, lr=1e-3, weight_decay=0.1)
    rows = examples()
    batches = [
        {name: torch.stack([row[name] for row in rows[first : first + 8]]) for name in rows[0]}
        for first in range(0, 240, 8)
    ]
    for _ in range(2):
        rest = iter(batches)
        for _ in range(0, 30, batches_per_step):
            step, n_items = own.get_batch_samples(rest, batches_per_step, "cpu")
            losses = [model(**batch, num_items_in_batch=n_items).loss for batch in step]
            optimizer.zero_grad()
            for loss in losses:
                loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step(loss=sum(losses))
    optimizer.load_averaged()
    return model, optimizer


# The last step of an epoch has two batches instead of four.
@pytest.mark.parametrize(("batches_per_step", "total_steps"), [(1, 60), (4, 16)])
def test_a_model_trains_as_in_a_plain_loop(batches_per_step, total_steps, tmp_path):
    own = trainer(tmp_path, gradient_accumulation_steps=batches_per_step)
    own.train()
    model, plain = plain_loop(own, batches_per_step, total_steps)
    assert own.pilot_optimizer.decisions == plain.decisions
    assert plain.steps == total_steps
    for one, other in zip(own.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(one.cpu(), other)
    assert plain.decisions[-1]["train_loss"] < 0.9 * plain.decisions[0]["train_loss"]


def test_a_training_goes_on_from_a_checkpoint_to_the_last_bit(tmp_path):
    # A step between two of the seven decisions.
    how = {"pilot_options": {"decisions": 7}, "save_strategy": "steps", "save_steps": 20}
    whole = trainer(tmp_path, **how)
    whole.train()
    resumed = trainer(tmp_path, **how)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    assert resumed.pilot_optimizer.decisions == whole.pilot_optimizer.decisions
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_decisions_and_what_an_evaluation_says_are_logged(tmp_path):
    own = trainer(
        tmp_path, report_to="tensorboard", logging_strategy="steps", logging_steps=15,
        eval_strategy="steps", eval_steps=15, monitor_accuracy="eval_accuracy",
        compute_metrics=lambda _: {"accuracy": 0.25},
    )  # fmt: skip
    own.train()
    own.evaluate()
    records = own.pilot_optimizer.decisions
    rows = [row for row in own.state.log_history if "pilot/decision" in row]
    assert [row["pilot/learning_rate"] for row in rows] == [
        record["learning_rate"] for record in records
    ]
    assert "pilot/valid_loss" not in rows[6]
    assert all("pilot/valid_loss" in row for row in rows[8:])
    assert records[10]["observation"][22] == 0.25
    json.dumps(own.state.log_history)
    # The Trainer's own is the rate of the step behind, as the pilot has set it.
    (logged,) = (row for row in own.state.log_history if row["step"] == 30 and "loss" in row)
    assert logged["learning_rate"] == records[14]["learning_rate"]
    # The evaluation afterwards began a file of its own.
    file, _ = sorted(tmp_path.rglob("events.out.tfevents*"))
    reading = import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(str(file)).Reload()
    values = [event.value for event in events.Scalars("train/pilot/learning_rate")]
    assert values == pytest.approx([record["learning_rate"] for record in records])


def test_every_train_begins_anew(tmp_path):
    own = trainer(tmp_path, max_steps=6)
    own.train()
    first = own.pilot_optimizer
    own.train()
    assert own.pilot_optimizer is not first
    assert (first.steps, own.pilot_optimizer.steps) == (6, 6)


def test_steps_that_a_scaler_skips_are_forgotten_with_their_losses(tmp_path):
    own = trainer(
        tmp_path, max_steps=12, gradient_accumulation_steps=2, max_grad_norm=0.0, pilot="rate_only"
    )
    # The squares of what it scales by this overflow, until it has halved it often enough.
    own.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**68)
    own.train()
    assert 0 < own.pilot_optimizer.steps < 12
    losses = [record["train_loss"] for record in own.pilot_optimizer.decisions[:-1]]
    assert max(losses) < 1.5 * min(losses)


def test_what_a_pilot_cannot_do_is_refused_in_a_sentence(tmp_path):
    model = language_model()
    optimizer = torch.optim.SGD(model.parameters())
    args = transformers.TrainingArguments(tmp_path, report_to="none", use_cpu=True)
    with pytest.raises(TrainpilotError, match=r"scheduler of its trainer, .*; given: SGD"):
        PilotTrainer(model, args, optimizers=(optimizer, None))


def test_a_trainer_that_is_built_takes_a_pilot(tmp_path):
    class Counting(transformers.Trainer):
        steps = 0

        def training_step(self, *args, **kwargs):
            self.steps += 1
            return super().training_step(*args, **kwargs)

    how = {
        "pilot_options": {"decisions": 5}, "monitor": "eval_loss", "eval_strategy": "steps",
        "eval_steps": 5, "max_steps": 20,
    }  # fmt: skip
    whole = trainer(tmp_path, **how)
    whole.train()
    built = Counting(
        language_model(), whole.args, train_dataset=examples(), eval_dataset=examples(16)
    )
    integration.attach(built, "default", {"decisions": 5}, monitor="eval_loss")
    built.train()
    assert isinstance(built, Counting)
    assert built.steps == built.pilot_optimizer.steps == 20
    assert built.pilot_optimizer.decisions == whole.pilot_optimizer.decisions
    for one, other in zip(built.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_a_built_trainer_cannot_take_leaves_it_as_it_was(tmp_path):
    model = language_model()
    args = transformers.TrainingArguments(tmp_path, report_to="none", use_cpu=True)
    optimizer = torch.optim.SGD(model.parameters())
    built = transformers.Trainer(model, args, optimizers=(optimizer, None))
    with pytest.raises(TrainpilotError, match=r"scheduler of its trainer, .*; given: SGD"):
        integration.attach(built)
    assert type(built) is transformers.Trainer
    with pytest.raises(TrainpilotError, match="none yet; given: PilotTrainer"):
        integration.attach(trainer(tmp_path))
    built = transformers.Trainer(model, args)
    built.training_step = lambda *_: torch.zeros(())
    with pytest.raises(TrainpilotError, match=r"those of its class; given: .* own training_step"):
        integration.attach(built)
    with pytest.raises(TrainpilotError, match=r"Trainer of transformers.*; given: Linear"):
        integration.attach(nn.Linear(1, 1))


def test_a_trainer_with_an_optimizer_of_its_own_class_is_told(tmp_path):
    class Own(transformers.Trainer):
        def create_optimizer(self, model=None):
            raise AssertionError("the pilot is the optimizer")

    args = trainer(tmp_path, max_steps=2).args
    built = Own(language_model(), args, train_dataset=examples())
    policy = Path(str(files("trainpilot.agents.pretrained") / "default.safetensors"))
    with pytest.warns(UserWarning, match=r"in the place of what Own.create_optimizer makes"):
        integration.attach(built, policy)
    built.train()
    assert built.pilot_optimizer.steps == 2


def test_a_metric_that_no_evaluation_gives_is_named(tmp_path):
    how = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2}
    with pytest.raises(TrainpilotError, match=r"one of eval_loss, .*; given: loss$"):
        trainer(tmp_path, monitor="loss", **how).train()
    with pytest.raises(TrainpilotError, match=r"one of eval_loss, .*; given: eval_accuracy$"):
        trainer(tmp_path, monitor_accuracy="eval_accuracy", **how).train()
    sets = {"one": examples(16), "other": examples(32)}
    several = trainer(tmp_path, eval_dataset=sets, monitor="eval_other_loss", **how)
    several.train()
    assert several.pilot_optimizer.decisions[-1]["valid_loss"] is not None
    unsaid = trainer(tmp_path, eval_dataset=sets, **how)
    with pytest.warns(UserWarning, match="is the validation loss.* eval_one_loss") as warned:
        unsaid.train()
    assert sum("validation loss" in str(one.message) for one in warned) == 1


@pytest.mark.parametrize("best", [False, True])
def test_an_evaluation_sees_the_pilots_average_and_the_training_ends_with_it(best, tmp_path):
    how = {"pilot": Pilot(Constant("adam", 0.01, ema_decay=0.5)), "eval_strategy": "epoch"}
    if best:
        how |= {"save_strategy": "epoch", "load_best_model_at_end": True}
    own = trainer(tmp_path, **how)
    seen, training, ends = [], [], []

    class Saving(transformers.TrainerCallback):
        def on_train_end(self, *args, model, **kwargs):
            ends.append(model.transformer.wte.weight.detach().clone())

    own.add_callback(Saving())

    def look(model, _):
        (training if model.training else seen).append(model.transformer.wte.weight.detach().clone())

    own.model.register_forward_pre_hook(look)
    own.train()
    assert not torch.equal(seen[-1], training[-1])
    final = own.model.transformer.wte.weight
    assert torch.equal(ends[0], final)
    if best:
        # That is a checkpoint, which has the weights that training would go on with.
        assert not torch.equal(final, seen[-1])
    else:
        assert torch.equal(final, seen[-1])
        found = [row["eval_loss"] for row in own.state.log_history if "eval_loss" in row]
        assert own.evaluate()["eval_loss"] == found[-1]
