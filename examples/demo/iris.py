"""The lecture's exercise: iris, one dense layer, five optimizers side by side.

The client has neither autodiff nor an optimizer. It multiplies matrices; the server
computes the softmax, the loss and their gradients, and takes the steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import optserve
from demo.curves import Curves
from demo.data import SPECIES, Array, Examples, iris
from demo.interrupts import check_interrupts
from demo.progress import epoch_bar
from optserve import Initialized, activations, initializers, losses, optimizers

LEARNING_RATE = 0.1
BATCH = 32
EPOCHS = 500
TEST_COUNT = 30
SEED = 0

SOFTMAX = activations.Softmax()
LOSS = losses.MeanSquaredError()
OPTIMIZERS: dict[str, Callable[..., optimizers.Optimizer]] = {
    "SGD": optimizers.SGD,
    "momentum": optimizers.Momentum,
    "AdaGrad": optimizers.Adagrad,
    "RMSProp": optimizers.RMSprop,
    "Adam": optimizers.Adam,
}


def train_all(client: optserve.Client, epochs: int) -> list[Curves]:
    """Trains with each optimizer, all from the same first weights, on the same batches."""
    train, test = iris().split(TEST_COUNT, SEED)
    return [train_one(client, name, train, test, epochs) for name in OPTIMIZERS]


def train_one(client: optserve.Client, name: str, train: Examples, test: Examples, epochs: int) -> Curves:
    """Trains with one optimizer, in a session of its own."""
    curves = Curves(name)
    optimizer = OPTIMIZERS[name](learning_rate=LEARNING_RATE, convention=optserve.LECTURE)
    session = client.create_session(first_weights(), optimizer, seed=SEED)
    weights = session.pull()
    begun = time.perf_counter()
    with epoch_bar(f"iris, {name}", epochs) as progress:
        for _ in range(epochs):
            batch_losses = []
            for batch in train.batches(BATCH):
                loss, gradients = loss_and_gradients(client, weights, batch)
                weights = session.step(gradients, pull=True).parameters
                batch_losses.append(loss)
            curves.add(float(np.mean(batch_losses)), accuracy(weights, test))
            progress.set_postfix_str(curves.newest(), refresh=False)
            progress.update()
            check_interrupts()
    curves.steps_per_second = session.step_number / (time.perf_counter() - begun)
    session.delete()
    return curves


def first_weights() -> dict[str, Initialized]:
    """One dense layer, which the server fills from the session's seed."""
    small = initializers.TruncatedNormal(stddev=0.1)
    return {
        "weights": Initialized((4, len(SPECIES)), np.float32, small),
        "bias": Initialized((len(SPECIES),), np.float32, small),
    }


def logits(weights: dict[str, Array], inputs: Array) -> Array:
    """The dense layer, (examples, 4) to (examples, 3)."""
    return inputs @ weights["weights"] + weights["bias"]


def loss_and_gradients(
    client: optserve.Client, weights: dict[str, Array], batch: Examples
) -> tuple[float, dict[str, Array]]:
    """The loss on a batch and its gradients, backwards through loss, softmax and dense layer."""
    z = logits(weights, batch.inputs)
    probabilities = client.activation(SOFTMAX, z)
    loss = client.loss(LOSS, probabilities, np.eye(len(SPECIES), dtype=np.float32)[batch.labels])
    dz = client.activation_gradient(SOFTMAX, z, loss.gradient)
    return loss.value, {"weights": batch.inputs.T @ dz, "bias": dz.sum(axis=0)}


def accuracy(weights: dict[str, Array], examples: Examples) -> float:
    """The share of examples whose greatest logit is the right one."""
    return float(np.mean(logits(weights, examples.inputs).argmax(axis=1) == examples.labels))
