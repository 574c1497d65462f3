"""The pilot in trainings of PyTorch Lightning."""

from __future__ import annotations

import csv
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from trainpilot import Pilot, TrainpilotError
from trainpilot.agents.heuristics import Constant

lightning = pytest.importorskip("lightning.pytorch")

PilotCallback = import_module("trainpilot.agents.integrations.lightning").PilotCallback

pytestmark = [
    # 2026-11-22, lightning 2.6: how it says what it would do otherwise (more workers, say).
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    # 2026-11-22, lightning 2.6 with torch 2.13: its own code, as it looks at data loaders.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]


class Module(lightning.LightningModule):
    """A small classifier, as its author wrote it."""

    def __init__(self, make=lambda params: torch.optim.AdamW(params, lr=2e-3, weight_decay=0.01)):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        self.make = make
        self.losses = []

    def training_step(self, batch, batch_idx):
        loss = functional.cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        outputs = self.net(batch[0])
        self.log("val_loss", functional.cross_entropy(outputs, batch[1]))
        self.log("val_accuracy", (outputs.argmax(1) == batch[1]).double().mean())

    def configure_optimizers(self):
        return self.make(self.parameters())


def loader(n_examples=640):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n_examples, 4, generator=generator)
    targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    return DataLoader(TensorDataset(inputs, targets), 16)


def trainer(callback, folder, **how):
    defaults = {
        "accelerator": "cpu", "max_epochs": 3, "logger": False, "enable_checkpointing": False,
    }  # fmt: skip
    return lightning.Trainer(
        devices=1, default_root_dir=folder, callbacks=callback,
        enable_progress_bar=False, enable_model_summary=False, **{**defaults, **how},
    )  # fmt: skip


def last_checkpoint(folder):
    return lightning.callbacks.ModelCheckpoint(folder, save_last=True)


def plain_loop(
    batches_per_step=1, total_steps=120, epochs=3, clip=None, controller=None, **options
):
    """What Lightning is to do, by hand."""
    module = Module()
    options = {"lr": 2e-3, "weight_decay": 0.01, **options}
    pilot = Pilot.load() if controller is None else Pilot(controller)
    optimizer = pilot.attach(module, total_steps, **options)
    for _ in range(epochs):
        batches = list(loader())
        for first in range(0, len(batches), batches_per_step):
            optimizer.zero_grad()
            for batch in batches[first : first + batches_per_step]:
                loss = module.training_step(batch, 0) / batches_per_step
                loss.backward()
                optimizer.observe(train_loss=loss)
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
    return module, optimizer


def test_a_module_trains_as_in_a_plain_loop_and_stays_as_it_is(tmp_path):
    module, callback = Module(), PilotCallback()
    trainer(callback, tmp_path).fit(module, loader())
    twin, plain = plain_loop()
    assert module.losses == twin.losses
    assert callback.optimizer.decisions == plain.decisions
    assert len(plain.decisions) == 30
    assert isinstance(module.configure_optimizers(), torch.optim.AdamW)


def test_accumulated_and_clipped_gradients_go_with_the_loss_of_all_their_batches(tmp_path):
    module, callback = Module(), PilotCallback()
    # The last step of an epoch has one batch instead of three.
    how = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5}
    trainer(callback, tmp_path, **how).fit(module, loader())
    twin, plain = plain_loop(3, total_steps=42, clip=0.5)
    assert module.losses == twin.losses
    assert callback.optimizer.decisions == plain.decisions
    assert plain.steps == 42


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_fit_goes_on_from_a_checkpoint_to_the_last_bit(tmp_path):
    # The third of seven decisions holds from step 34 to 51, an epoch has 40.
    module, callback = Module(), PilotCallback(decisions=7)
    trainer(callback, tmp_path).fit(module, loader())
    first = Module()
    keeping = {"enable_checkpointing": True}
    callbacks = [PilotCallback(decisions=7, total_steps=120), last_checkpoint(tmp_path / "first")]
    trainer(callbacks, tmp_path, max_epochs=1, **keeping).fit(first, loader())
    again, resumed = Module(), PilotCallback(decisions=7)
    own = trainer([resumed, last_checkpoint(tmp_path / "rest")], tmp_path, **keeping)
    own.fit(again, loader(), ckpt_path=tmp_path / "first" / "last.ckpt")
    assert first.losses + again.losses == module.losses
    assert resumed.optimizer.decisions == callback.optimizer.decisions
    assert torch.equal(again.net[0].weight, module.net[0].weight)


def test_decisions_and_what_validation_says_reach_the_loggers(tmp_path):
    own = []
    callback = PilotCallback("default", "val_loss", "val_accuracy", on_decision=own.append)
    logger = lightning.loggers.CSVLogger(tmp_path)
    trainer(callback, tmp_path, logger=logger).fit(Module(), loader(), loader(160))
    lines = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    rows = [row for row in csv.DictReader(lines) if row["pilot/decision"]]
    records = callback.optimizer.decisions
    assert own == records
    assert [float(row["pilot/decision"]) for row in rows] == list(range(30))
    assert [float(row["pilot/learning_rate"]) for row in rows] == [
        record["learning_rate"] for record in records
    ]
    # An epoch is 10 of the 30 decisions, and nothing is known before its end.
    assert not any(row["pilot/valid_loss"] for row in rows[:10])
    assert all(row["pilot/valid_loss"] for row in rows[11:])
    assert [row["step"] for row in rows[:2]] == ["3", "7"]


def test_sixteen_bits_with_a_scaler(tmp_path):
    plugin = lightning.plugins.MixedPrecision(
        "16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10)
    )
    module, callback = Module(), PilotCallback()
    trainer(callback, tmp_path, plugins=[plugin]).fit(module, loader())
    assert callback.optimizer.steps == 120
    told = [record["train_loss"] for record in callback.optimizer.decisions]
    losses = torch.tensor(module.losses).view(30, 4).mean(1)
    torch.testing.assert_close(torch.tensor(told), losses)


def test_a_batch_that_is_left_out_is_no_step(tmp_path):
    class Picky(Module):
        def training_step(self, batch, batch_idx):
            return None if batch_idx % 10 == 9 else super().training_step(batch, batch_idx)

    callback = PilotCallback()
    with pytest.warns(UserWarning, match="`training_step` returned `None`"):
        trainer(callback, tmp_path).fit(Picky(), loader())
    assert callback.optimizer.steps == 108


def test_weights_are_averaged_and_batch_normalisation_passes_over_the_data_once_more(tmp_path):
    averaging = import_module("lightning.pytorch.callbacks").StochasticWeightAveraging
    module, callback = Module(), PilotCallback()
    own = trainer([callback, averaging(1e-3, swa_epoch_start=1)], tmp_path, max_epochs=4)
    with pytest.warns(UserWarning, match=r"after the total_steps .* 160: it keeps"):
        own.fit(module, loader())
    # 2026-11-23, lightning 2.6: in that pass it makes one step, under any optimizer.
    assert callback.optimizer.steps == 161
    assert torch.isfinite(module.net[1].running_mean).all()


def test_groups_of_the_modules_own_optimizer_keep_their_ratios(tmp_path):
    def make(params):
        first, *rest = list(params)
        groups = [{"params": [first], "lr": 1e-4, "weight_decay": 0.0}, {"params": rest}]
        return torch.optim.SGD(groups, lr=1e-2, momentum=0.5, weight_decay=0.1, nesterov=True)

    callback = PilotCallback("rate_only")
    trainer(callback, tmp_path).fit(Module(make), loader())
    slow, plain = callback.optimizer.param_groups
    assert slow["lr"] == pytest.approx(0.01 * plain["lr"])
    assert (slow["weight_decay"], plain["weight_decay"]) == (0, 0.1)
    first = callback.optimizer.decisions[0]
    assert (first["optimizer_before"], first["learning_rate_before"]) == ("nesterov", 0.01)
    assert first["momentum_before"] == 0.5


def test_a_scheduler_is_left_out_and_its_warm_up_undone(tmp_path):
    def make(params):
        optimizer = torch.optim.Adam(params, lr=0.01)
        warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm, "interval": "step"}}

    callback = PilotCallback()
    with pytest.warns(UserWarning, match="the learning rate: LambdaLR of configure_optimizers is"):
        trainer(callback, tmp_path).fit(Module(make), loader())
    assert callback.optimizer.decisions[0]["learning_rate_before"] == 0.01
    assert (
        callback.optimizer.param_groups[0]["lr"]
        == callback.optimizer.decisions[-1]["learning_rate"]
    )


def test_an_endless_training_has_no_length(tmp_path):
    callback = PilotCallback(decide_every=20)
    module = Module()
    stop = lightning.callbacks.Timer(duration={"seconds": 1})
    trainer([callback, stop], tmp_path, max_epochs=-1).fit(module, loader())
    assert [record["step"] for record in callback.optimizer.decisions[:3]] == [0, 20, 40]


def test_what_a_pilot_cannot_do_is_refused_in_a_sentence(tmp_path):
    def refused(module, match, callback=None, **how):
        with pytest.raises(TrainpilotError, match=match):
            trainer(callback or PilotCallback(), tmp_path, **how).fit(module, loader(), loader(32))

    module = Module()
    module.automatic_optimization = False
    refused(module, "automatic optimization; given: Module with automatic_optimization = False")
    refused(Module(lambda params: torch.optim.Adagrad(params)), "given: Adagrad")
    refused(Module(lambda params: []), "takes over from one optimizer; given: 0")
    refused(
        Module(), "must be logged in validation_step; given: loss", PilotCallback(monitor="loss")
    )
    with pytest.raises(TrainpilotError, match="beside it; given: val_accuracy"):
        PilotCallback(monitor_accuracy="val_accuracy")
    told = PilotCallback(optimizer="adam", lr=0.003)
    trainer(told, tmp_path).fit(Module(lambda params: torch.optim.Adagrad(params)), loader())
    assert told.optimizer.decisions[0]["learning_rate_before"] == 0.003


def test_a_validation_sees_the_pilots_average_and_the_fit_ends_with_it(tmp_path):
    class Looking(Module):
        seen = None

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            if not self.trainer.sanity_checking:
                self.seen = self.net[0].weight.detach().clone()

    def pilot():
        return Pilot(Constant("adam", 0.01, ema_decay=0.5))

    module, callback = Looking(), PilotCallback(pilot(), "val_loss", optimizer="adam")
    trainer(callback, tmp_path, max_epochs=2).fit(module, loader(), loader(64))
    twin = Module()
    plain = pilot().attach(twin, 80, lr=2e-3)
    averages = []
    for _ in range(2):
        for batch in loader():
            plain.zero_grad()
            loss = twin.training_step(batch, 0)
            loss.backward()
            plain.step(loss=loss)
        with plain.averaged():
            averages.append(twin.net[0].weight.detach().clone())
    assert module.losses == twin.losses  # the training goes on with its own weights
    assert torch.equal(module.seen, averages[1])
    assert torch.equal(module.net[0].weight, averages[1])
    assert not torch.equal(twin.net[0].weight, averages[1])


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_the_last_checkpoint_has_the_weights_that_a_fit_goes_on_with(tmp_path):
    def fitted(folder, epochs, **how):
        module = Module()
        callback = PilotCallback(
            Pilot(Constant("adam", 0.01, ema_decay=0.9)), optimizer="adam", total_steps=120
        )
        callbacks = [callback, last_checkpoint(tmp_path / folder)]
        own = trainer(callbacks, tmp_path, max_epochs=epochs, enable_checkpointing=True)
        own.fit(module, loader(), **how)
        return module

    whole = fitted("whole", 3)
    fitted("first", 2)
    again = fitted("rest", 3, ckpt_path=tmp_path / "first" / "last.ckpt")
    assert again.losses == whole.losses[80:]
    assert torch.equal(again.net[0].weight, whole.net[0].weight)


def test_a_validation_that_fails_leaves_the_module_with_its_own_weights(tmp_path):
    class Failing(Module):
        def validation_step(self, batch, batch_idx):
            if self.losses:
                raise ZeroDivisionError

    module = Failing()
    controller = Constant("adam", 0.01, ema_decay=0.5)
    callback = PilotCallback(Pilot(controller), optimizer="adam")
    own = trainer(callback, tmp_path, max_epochs=1)
    with pytest.raises(ZeroDivisionError):
        own.fit(module, loader(), loader(64))
    twin, _ = plain_loop(total_steps=40, epochs=1, controller=controller)
    assert torch.equal(module.net[0].weight, twin.net[0].weight)
