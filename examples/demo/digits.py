"""Handwritten digits: a hidden layer, gradients made in NumPy here, Adam's steps taken there."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

import optserve
from demo.data import Array, Examples, digits
from demo.interrupts import check_interrupts
from demo.progress import epoch_bar
from optserve import Initialized, initializers, optimizers

HIDDEN = 64
CLASSES = 10
BATCH = 32
EPOCHS = 30
TEST_COUNT = 360
SEED = 0


@dataclass(frozen=True)
class Outcome:
    """Result of the training: accuracy on the test set (0 to 1), steps, and seconds."""

    accuracy: float
    steps: int
    seconds: float


def train(client: optserve.Client, epochs: int) -> Outcome:
    """Trains the classifier, its examples in a new order in every epoch."""
    examples, test = digits().split(TEST_COUNT, SEED)
    rng = np.random.default_rng(SEED)
    begun = time.perf_counter()
    session = client.create_session(first_weights(), optimizers.Adam(learning_rate=2e-3), seed=SEED)
    weights = session.pull()
    with epoch_bar("digits, Adam", epochs) as progress:
        for _ in range(epochs):
            for batch in examples.take(rng.permutation(len(examples))).batches(BATCH):
                weights = session.step(gradients(weights, batch), pull=True).parameters
            progress.set_postfix_str(f"accuracy {accuracy(weights, test):.1%}", refresh=False)
            progress.update()
            check_interrupts()
    outcome = Outcome(accuracy(weights, test), session.step_number, time.perf_counter() - begun)
    session.delete()
    return outcome


def first_weights() -> dict[str, Initialized]:
    """Two dense layers, 64 to 64 to 10, which the server fills from the session's seed."""
    return {
        "hidden/weights": Initialized((64, HIDDEN), np.float32, initializers.He()),
        "hidden/bias": Initialized((HIDDEN,), np.float32, initializers.Zeros()),
        "output/weights": Initialized((HIDDEN, CLASSES), np.float32, initializers.He()),
        "output/bias": Initialized((CLASSES,), np.float32, initializers.Zeros()),
    }


def forward(weights: dict[str, Array], inputs: Array) -> tuple[Array, Array]:
    """The hidden layer's output and the logits."""
    hidden = np.maximum(inputs @ weights["hidden/weights"] + weights["hidden/bias"], 0)
    return hidden, hidden @ weights["output/weights"] + weights["output/bias"]


def gradients(weights: dict[str, Array], batch: Examples) -> dict[str, Array]:
    """The gradients of the mean cross-entropy of softmax, by hand."""
    hidden, logits = forward(weights, batch.inputs)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    d_logits = (probabilities - np.eye(CLASSES, dtype=np.float32)[batch.labels]) / len(batch)
    d_hidden = (d_logits @ weights["output/weights"].T) * (hidden > 0)
    return {
        "hidden/weights": batch.inputs.T @ d_hidden,
        "hidden/bias": d_hidden.sum(axis=0),
        "output/weights": hidden.T @ d_logits,
        "output/bias": d_logits.sum(axis=0),
    }


def accuracy(weights: dict[str, Array], examples: Examples) -> float:
    """The share of examples whose greatest logit is the right one."""
    _, logits = forward(weights, examples.inputs)
    return float(np.mean(logits.argmax(axis=1) == examples.labels))
