"""`optserve.torch.RemoteOptimizer` in training loops that are written for any optimizer of PyTorch."""

from __future__ import annotations

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from optserve import optimizers as rules
from optserve.torch import RemoteOptimizer

pytestmark = pytest.mark.filterwarnings("default")


def digits() -> tuple[Dataset, Dataset]:
    """1,500 digits to train on and 297 to test on: 64 pixels from 0 to 1, and the class."""
    path = Path(__file__).parents[2] / "data" / "digits.csv.gz"
    rows = np.loadtxt(path, delimiter=",", dtype=np.float32, skiprows=1)
    data = torch.from_numpy(rows)
    parts = TensorDataset(data[:, :-1] / 16, data[:, -1].long())
    train, test = torch.utils.data.random_split(parts, [1500, 297], torch.Generator().manual_seed(0))
    return train, test


class Net(torch.nn.Module):
    """The network of PyTorch's MNIST example, for images of 8 by 8 pixels."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 16, 3)
        self.fc1 = torch.nn.Linear(16 * 9, 32)
        self.fc2 = torch.nn.Linear(32, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x.view(-1, 1, 8, 8))), 2)
        return F.log_softmax(self.fc2(F.relu(self.fc1(torch.flatten(x, 1)))), dim=1)


def train(model, loader, optimizer, epochs):
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    for _ in range(epochs):
        model.train()
        for data, target in loader:
            optimizer.zero_grad()
            output = model(data)
            loss = F.nll_loss(output, target)
            loss.backward()
            optimizer.step()
        scheduler.step()


def test_the_loop_of_the_mnist_example(address):
    examples, held_back = digits()
    accuracies, models = [], []
    for is_remote in (True, False):
        torch.manual_seed(1)
        model = Net()
        loader = DataLoader(examples, 64, shuffle=True, generator=torch.Generator().manual_seed(2))
        if is_remote:
            optimizer = RemoteOptimizer(model.parameters(), rules.Adadelta(learning_rate=1.0), server=address)
        else:
            optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
        train(model, loader, optimizer, 5)
        model.eval()
        with torch.no_grad():
            data, target = next(iter(DataLoader(held_back, 297)))
            accuracies.append((model(data).argmax(1) == target).float().mean().item())
        models.append(model)
    assert min(accuracies) > 0.88
    for found, expected in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)  # rounding, amplified over 120 steps


class Sequences(Dataset):
    """Sequences of words whose class is that of the first word."""

    def __init__(self, count: int):
        self.words = torch.randint(2, 40, (count, 8), generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        words = self.words[index]
        return {"input_ids": words, "labels": (words[0] >= 20).long()}


def test_the_trainer_of_hugging_face(address, tmp_path):
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=40, max_position_embeddings=8, **shape)
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    optimizer = RemoteOptimizer(model.named_parameters(), rules.AdamW(learning_rate=3e-3), server=address)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 75)
    options = {"report_to": [], "logging_strategy": "epoch", "disable_tqdm": True, "use_cpu": True}
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=3, per_device_train_batch_size=16, save_strategy="epoch", **options
    )
    trainer = Trainer(model, arguments, train_dataset=Sequences(400), optimizers=(optimizer, scheduler))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]
    assert optimizer.session.get().step == 75
    saved = torch.load(tmp_path / "checkpoint-75" / "optimizer.pt", weights_only=True)
    assert saved["optserve"] == {"session": optimizer.session.name, "step": 75}


class Module(lightning.LightningModule):
    def __init__(self, address: str):
        super().__init__()
        self.net, self.address, self.losses = Net(), address, []

    def training_step(self, batch):
        loss = F.nll_loss(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        optimizer = RemoteOptimizer(self.parameters(), rules.AdamW(learning_rate=3e-3), server=self.address)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


def test_lightning(address, tmp_path):
    options = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "default_root_dir": tmp_path,
    }
    module = Module(address)
    trainer = lightning.Trainer(max_epochs=2, gradient_clip_val=1.0, enable_model_summary=False, **options)
    trainer.fit(module, DataLoader(digits()[0], 50))
    assert np.mean(module.losses[-10:]) < 0.75 * np.mean(module.losses[:10])
    path = tmp_path / "saved.ckpt"
    trainer.save_checkpoint(path)
    resumed = Module(address)
    further = lightning.Trainer(max_epochs=3, enable_model_summary=False, **options)
    further.fit(resumed, DataLoader(digits()[0], 50), ckpt_path=path, weights_only=False)
    assert further.optimizers[0].session.get().step == 90
    assert np.mean(resumed.losses) < np.mean(module.losses)
