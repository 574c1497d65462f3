"""Decisions of a pilot in Weights & Biases and MLflow, through the loggers of each library."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from trainpilot import Pilot
from trainpilot.agents.integrations.metrics import decision_metrics

N_STEPS = 12
DECISIONS = 4


class WandB:
    """Runs that are kept in a folder, nothing sent."""

    def __init__(self, folder, monkeypatch):
        self.module = pytest.importorskip("wandb")
        self.folder = folder
        for name, value in (("MODE", "offline"), ("DIR", str(folder)), ("SILENT", "true")):
            monkeypatch.setenv(f"WANDB_{name}", value)

    def by_hand(self):
        run = self.module.init(dir=self.folder)
        return lambda record: run.log(decision_metrics(record))

    def lightning(self):
        return import_module("lightning.pytorch.loggers").WandbLogger(
            save_dir=self.folder, offline=True
        )

    def end(self):
        self.module.finish()
        self.module.teardown()  # or the settings are those of this run for good

    def values(self, name):
        """Of a metric, in the order in which they were logged."""
        records = import_module("wandb.proto.wandb_internal_pb2")
        (path,) = self.folder.rglob("run-*.wandb")
        found = []
        for data in leveldb_records(path):
            items = records.Record.FromString(data).history.item
            logged = {one.key or "/".join(one.nested_key): one.value_json for one in items}
            found += [json.loads(value) for key, value in logged.items() if key.endswith(name)]
        return found


class MLflow:
    """Runs that are kept in a folder."""

    def __init__(self, folder, monkeypatch):
        self.module = pytest.importorskip("mlflow")
        self.uri = (folder / "mlflow").as_uri()
        # 2026-11-23, mlflow 3.17: a database is what it would have, which takes seconds to begin.
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", self.uri)
        self.module.set_tracking_uri(self.uri)

    def by_hand(self):
        self.module.start_run()
        log = self.module.log_metrics
        return lambda record: log(decision_metrics(record), step=record["step"])

    def lightning(self):
        return import_module("lightning.pytorch.loggers").MLFlowLogger(tracking_uri=self.uri)

    def end(self):
        self.module.end_run()

    def values(self, name):
        """Of a metric, in the order of their steps."""
        client = self.module.MlflowClient(self.uri)
        experiments = [one.experiment_id for one in client.search_experiments()]
        (run,) = client.search_runs(experiments)
        (key,) = [key for key in run.data.metrics if key.endswith(name)]
        history = client.get_metric_history(run.info.run_id, key)
        return [one.value for one in sorted(history, key=lambda one: one.step)]


@pytest.fixture(params=[WandB, MLflow])
def logger(request, tmp_path, monkeypatch):
    return request.param(tmp_path, monkeypatch)


def leveldb_records(path: Path) -> Iterator[bytes]:
    """The records of a log in LevelDB's format (its documentation: log_format.md).

    Before the first stand seven bytes by which Weights & Biases tells its own files.
    """
    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32_768 - place % 32_768) < 7:  # a block's end, too short for a header
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


class Module(nn.Module):
    """A small classifier that takes what each of the libraries gives."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 3)

    def forward(self, inputs, labels):
        return {"loss": functional.cross_entropy(self.net(inputs), labels)}


def batches():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(N_STEPS * 8, 4, generator=generator)
    return DataLoader(TensorDataset(inputs, (inputs[:, 0] > 0).long()), 8)


def train_with_lightning(logger, folder):
    lightning = pytest.importorskip("lightning.pytorch")
    integration = import_module("trainpilot.agents.integrations.lightning")

    class Own(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Module()

        def training_step(self, batch, batch_idx):
            return self.model(*batch)["loss"]

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    callback = integration.PilotCallback(decisions=DECISIONS)
    lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, default_root_dir=folder, callbacks=callback,
        logger=logger.lightning(), enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1,
    ).fit(Own(), batches())  # fmt: skip
    return callback.optimizer.decisions


def train_with_transformers(logger, folder):
    transformers = pytest.importorskip("transformers")
    integration = import_module("trainpilot.agents.integrations.transformers")
    arguments = transformers.TrainingArguments(
        folder, report_to=logger.module.__name__, max_steps=N_STEPS, use_cpu=True,
        per_device_train_batch_size=8, save_strategy="no", disable_tqdm=True, learning_rate=1e-3,
    )  # fmt: skip
    rows = [{"inputs": one, "labels": label} for one, label in batches().dataset]
    trainer = transformers.Trainer(Module(), arguments, train_dataset=rows)
    integration.attach(trainer, pilot_options={"decisions": DECISIONS})
    trainer.train()
    return trainer.pilot_optimizer.decisions


def train_with_accelerate(logger, folder):
    accelerate = pytest.importorskip("accelerate")
    integration = import_module("trainpilot.agents.integrations.accelerate")
    accelerator = accelerate.Accelerator(
        cpu=True, log_with=logger.module.__name__, project_dir=folder
    )
    accelerator.init_trackers("own")
    model = Module()
    pilot = integration.attach(accelerator, model, N_STEPS, decisions=DECISIONS)
    model, optimizer, loader = accelerator.prepare(model, pilot, batches())
    for batch in loader:
        optimizer.zero_grad()
        accelerator.backward(model(*batch)["loss"])
        optimizer.step()
    accelerator.end_training()
    return pilot.decisions


def train_by_hand(logger, folder):
    model = Module()
    options = {"decisions": DECISIONS, "on_decision": logger.by_hand()}
    optimizer = Pilot.load().attach(model, N_STEPS, **options)
    for batch in batches():
        optimizer.zero_grad()
        loss = model(*batch)["loss"]
        loss.backward()
        optimizer.step(loss=loss)
    return optimizer.decisions


# 2026-11-23, lightning 2.6 with torch 2.13: its own code, as it looks at data loaders.
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize(
    "train",
    [train_by_hand, train_with_lightning, train_with_transformers, train_with_accelerate],
)
def test_every_decision_is_logged(train, logger, tmp_path):
    decisions = train(logger, tmp_path)
    logger.end()
    assert len(decisions) == DECISIONS
    for name in ("learning_rate", "train_loss", "distance"):
        assert logger.values(f"pilot/{name}") == [record[name] for record in decisions]
