"""Keras' callbacks, PyTorch's scheduler and optax' transformation, fed with values of a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
import optax
import torch

from tests.conformance.oracle import metrics as oracle
from tests.conformance.sources.row import Row

# Numbers with few binary digits: at a threshold nothing hangs on how a sum is rounded.
FALLING = [4.0, 3.0, 3.0, 3.5, 2.0, 2.5, 2.5, 2.25, 2.5, 3.0, 1.0, 1.5, 1.5, 1.5, 1.25, 1.5, 1.5, 1.75]
LEVEL = [2.0] + [2.5] * 30
AT_THRESHOLD = [4.0, 3.75, 3.5, 3.5, 3.0, 2.75, 2.5, 2.25, 2.0, 1.75, 1.71875, 1.5, 1.25, 1.0, 0.75, 0.75]
NEGATIVE = [-1.0, -1.0, -1.5, -1.5, -1.75, -1.625, -2.0, -1.9375, -2.0, -2.0, -3.0, -3.0]
# 0.75 is better than 4.5 by a hair more than this, which value + threshold rounds away.
ROUNDED, ALMOST = [4.5, 0.75, 0.75], {"threshold": 3.7499999999999996}
NEARING = [4.0, 3.5, 3.25, 3.125, 2.875, 2.75, 2.625, 2.5]
RISING = [-x for x in FALLING]

Fields = Mapping[str, Any]
RATE = 0.5


def reduce_keras(values: Sequence[float], fields: Fields) -> oracle.Answer:
    """Keras' callback on a model of one weight."""
    names = {"threshold": "min_delta", "min_learning_rate": "min_lr"}
    callback = keras.callbacks.ReduceLROnPlateau(**keywords(fields, names))
    model = one_weight()
    callback.set_model(model)
    callback.on_train_begin()
    path = []
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {"val_loss": value})
        rate = float(np.asarray(model.optimizer.learning_rate))
        path.append((rate, callback.best, callback.wait, callback.cooldown_counter))
    return oracle.columns(path)


def keywords(fields: Fields, names: Mapping[str, str]) -> dict[str, Any]:
    """A framework's keywords for the contract's fields."""
    given = {names.get(name, name): value for name, value in fields.items()}
    given["mode"] = str(given.get("mode", "METRIC_MODE_MIN")).removeprefix("METRIC_MODE_").lower()
    return given


def one_weight() -> Any:
    """A compiled model of one weight without a bias, in float64 whatever ran before."""
    keras.config.set_floatx("float64")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer=keras.optimizers.SGD(RATE), loss="mse")
    return model


def reduce_torch(values: Sequence[float], fields: Fields) -> oracle.Answer:
    optimizer = torch.optim.SGD([torch.zeros(1, dtype=torch.float64)], lr=RATE)
    names = {"min_learning_rate": "min_lr", "min_change": "eps"}
    given = keywords(fields, names)
    if "threshold_mode" in given:
        given["threshold_mode"] = {"THRESHOLD_MODE_FROM_BEST": "abs"}[given["threshold_mode"]]
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **given)
    path = []
    for value in values:
        scheduler.step(value)
        bad, cooling = scheduler.num_bad_epochs, scheduler.cooldown_counter
        path.append((optimizer.param_groups[0]["lr"], scheduler.best, bad, cooling))
    return oracle.columns(path)


def reduce_optax(values: Sequence[float], fields: Fields) -> oracle.Answer:
    given = {"threshold": "rtol"}
    rule = optax.contrib.reduce_on_plateau(**{given.get(name, name): v for name, v in fields.items()})
    parameters = jnp.zeros(1, jnp.float64)
    state = rule.init(parameters)
    path = []
    for value in values:
        _, state = rule.update(parameters, state, value=jnp.float64(value))
        counts = int(state.plateau_count), int(state.cooldown_count)
        path.append((RATE * float(state.scale), float(state.best_value), *counts))
    return oracle.columns(path)


def stop_keras(values: Sequence[float], fields: Fields) -> oracle.Answer:
    """Keras' callback on a model whose weight is the number of the epoch, from 1."""
    names = {"restore_best": "restore_best_weights", "start_from": "start_from_epoch"}
    callback = keras.callbacks.EarlyStopping(**keywords(fields, names))
    model = one_weight()
    callback.set_model(model)
    model.stop_training = False
    callback.on_train_begin()
    bests, waits = [], []
    for epoch, value in enumerate(values):
        model.set_weights([np.array([[epoch + 1.0]])])
        callback.on_epoch_end(epoch, {"val_loss": value})
        bests.append(0.0 if callback.best is None else callback.best)
        waits.append(callback.wait)
        if model.stop_training:
            callback.on_train_end()
            break
    (weight,) = model.get_weights()
    stopped = int(model.stop_training)
    return {"best_values": bests, "waited": waits, "stopped": stopped, "parameter": float(weight.item())}


def plateau(
    case: str,
    source: str,
    values: Sequence[float],
    fields: Fields,
    framework: Callable[[Sequence[float], Fields], oracle.Answer],
    scalar: Callable[..., oracle.Answer],
) -> Row:
    """A case of reduce_on_plateau over plain gradient descent."""
    knobs = {name: plain(value) for name, value in fields.items() if name != "threshold_mode"}
    optimizer = {"convention": f"CONVENTION_{source.upper()}", "sgd": {"learning_rate": RATE}}
    return Row(
        "metrics", "reduce_on_plateau", case, source,
        {"optimizer": optimizer, "reduce_on_plateau": dict(fields)}, {"values": list(values)},
        lambda: scalar(values, RATE, **knobs), lambda: framework(values, fields),
    )  # fmt: skip


def plain(value: Any) -> Any:
    """An enum's value without its prefix."""
    return value.rpartition("_")[2] if isinstance(value, str) else value


def stopping(case: str, values: Sequence[float], **fields: Any) -> Row:
    """A case of early_stopping; gradients of -1 at rate 1 count the reports in the parameter."""
    knobs = {name: plain(value) for name, value in fields.items()}
    optimizer = {"convention": "CONVENTION_KERAS", "sgd": {"learning_rate": 1.0}}
    return Row(
        "metrics", "early_stopping", case, "keras",
        {"optimizer": optimizer, "early_stopping": fields}, {"values": list(values)},
        lambda: oracle.early_stopping(values, **knobs), lambda: stop_keras(values, fields),
    )  # fmt: skip


COMMON: dict[str, tuple[Sequence[float], Fields]] = {
    "": (FALLING, {"factor": 0.5, "patience": 2}),
    "_defaults": (LEVEL, {}),
    "_at_once": (FALLING, {"factor": 0.5, "patience": 0}),
    "_tiny": (LEVEL, {"patience": 0}),
    "_first_bad": (FALLING, {"factor": 0.5, "patience": 1}),
    "_cooldown": (LEVEL[:20], {"factor": 0.75, "patience": 2, "cooldown": 3}),
    "_cooldown_of_one": (LEVEL[:20], {"factor": 0.75, "patience": 2, "cooldown": 1}),
    "_cooldown_at_once": (LEVEL[:12], {"factor": 0.75, "patience": 0, "cooldown": 2}),
    "_better_in_cooldown": (FALLING, {"factor": 0.75, "patience": 1, "cooldown": 4}),
    "_at_threshold": (AT_THRESHOLD, {"factor": 0.5, "patience": 1, "threshold": 0.25}),
    "_no_threshold": (FALLING, {"factor": 0.5, "patience": 1, "threshold": 0.0}),
    "_negative": (NEGATIVE, {"factor": 0.5, "patience": 1, "threshold": 0.125}),
}
FLOORED: dict[str, tuple[Sequence[float], Fields]] = {
    "_max": (RISING, {"factor": 0.5, "patience": 2, "mode": "METRIC_MODE_MAX"}),
    "_max_at_threshold": (
        [1.0, 1.25, 1.25, 1.5, 2.0, 2.5, 3.125, 3.5, 5.0, 5.0, 5.0],
        {"factor": 0.5, "patience": 1, "threshold": 0.25, "mode": "METRIC_MODE_MAX"},
    ),
    "_floor": (LEVEL, {"factor": 0.25, "patience": 2, "cooldown": 2, "min_learning_rate": 0.0625}),
    "_floor_between": (LEVEL, {"factor": 0.25, "patience": 2, "min_learning_rate": 0.1}),
    "_floor_above": (LEVEL, {"factor": 0.25, "patience": 2, "cooldown": 2, "min_learning_rate": 0.75}),
}
FROM_BEST = {"threshold_mode": "THRESHOLD_MODE_FROM_BEST"}


def plateaus() -> list[Row]:
    rows = []
    for case, (values, fields) in (COMMON | FLOORED).items():
        rows.append(plateau("keras" + case, "keras", values, fields, reduce_keras, oracle.plateau_keras))
        rows.append(plateau("torch" + case, "torch", values, fields, reduce_torch, oracle.plateau_torch))
    for case, (values, fields) in COMMON.items():
        if fields.get("threshold", 1) and fields.get("patience", 1):
            rows.append(plateau("optax" + case, "optax", values, fields, reduce_optax, by_optax))
    change = {"factor": 0.5, "patience": 1, "min_change": 0.0625}
    rows.append(plateau("torch_change", "torch", LEVEL, change, reduce_torch, oracle.plateau_torch))
    for case, values, fields in (
        ("torch_absolute", AT_THRESHOLD, {"threshold": 0.25}),
        ("torch_absolute_rounded", ROUNDED, ALMOST),
        ("torch_absolute_max", [-x for x in AT_THRESHOLD], {"threshold": 0.25, "mode": "METRIC_MODE_MAX"}),
    ):
        given = {"factor": 0.5, "patience": 0, **fields, **FROM_BEST}
        rows.append(plateau(case, "torch", values, given, reduce_torch, by_margin))
    given = {"factor": 0.5, "patience": 1, **ALMOST}
    rows.append(plateau("keras_rounded", "keras", ROUNDED, given, reduce_keras, oracle.plateau_keras))
    return rows


def by_optax(values: Sequence[float], rate: float, **knobs: Any) -> oracle.Answer:
    return oracle.plateau_torch(values, rate, min_change=0.0, optax=True, **knobs)


def by_margin(values: Sequence[float], rate: float, **knobs: Any) -> oracle.Answer:
    return oracle.plateau_torch(values, rate, absolute=True, **knobs)


def stoppings() -> list[Row]:
    peak = {"mode": "METRIC_MODE_MAX"}
    return [
        stopping("keras_defaults", FALLING),
        stopping("keras", FALLING, patience=3),
        stopping("keras_one", FALLING, patience=1, restore_best=True),
        stopping("keras_goes_on", FALLING, patience=20),
        stopping("keras_restores", FALLING, patience=3, restore_best=True),
        stopping("keras_max", RISING, patience=4, restore_best=True, **peak),
        stopping("keras_at_min_delta", NEARING, patience=2, min_delta=0.25, restore_best=True),
        stopping("keras_max_at_min_delta", [-x for x in NEARING], patience=2, min_delta=0.25, **peak),
        stopping("keras_baseline", [4.0, 3.0, 2.0, 1.0, 0.5], patience=3, baseline=1.5, restore_best=True),
        stopping("keras_baseline_missed", FALLING, patience=4, baseline=1.5, restore_best=True),
        stopping("keras_baseline_reached", FALLING, patience=3, baseline=3.5),
        stopping("keras_max_baseline", RISING, patience=6, baseline=-2.0, restore_best=True, **peak),
        stopping("keras_start_from", [1.0, *FALLING], patience=3, start_from=2, restore_best=True),
        stopping("keras_start_late", FALLING, patience=0, start_from=10),
    ]  # fmt: skip


def rows() -> list[Row]:
    """The tables."""
    return [*plateaus(), *stoppings()]
