"""The names that the frameworks offer, from the frameworks themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import keras
import optax
import torch

from tests.conformance.parity.tables import TABLES


def public(module: Any) -> set[str]:
    """Public names of a module."""
    return {name for name in dir(module) if not name.startswith("_")}


def classes(module: Any) -> set[str]:
    """Public classes of a module."""
    return {name for name in public(module) if inspect.isclass(getattr(module, name))}


def torch_losses() -> set[str]:
    """Classes of losses, wherever torch.nn defines them."""
    named = {name for name in classes(torch.nn) if "Loss" in name}
    return named | set(torch.nn.modules.loss.__all__)


def keras_activations() -> set[str]:
    """Functions, and layers that are nothing but an activation."""
    base = keras.layers.ReLU.__module__.rpartition(".")[0]
    layers = {
        f"layers.{name}"
        for name in classes(keras.layers)
        if getattr(keras.layers, name).__module__.startswith(base)
    }
    return public(keras.activations) | layers


NAMES: Mapping[str, Mapping[str, Callable[[], set[str]]]] = {
    "losses": {
        "keras": lambda: classes(keras.losses),
        "torch": torch_losses,
        "optax": lambda: public(optax.losses),
    },
    "activations": {
        "keras": keras_activations,
        "torch": lambda: set(torch.nn.modules.activation.__all__),
        "optax": lambda: public(jax.nn),
    },
    "schedules": {
        "keras": lambda: public(keras.optimizers.schedules),
        "torch": lambda: set(torch.optim.lr_scheduler.__all__),
        "optax": lambda: public(optax.schedules),
    },
}


def problems() -> list[str]:
    """Names that a framework offers and no table lists, and listed ones that it does not offer."""
    found = []
    for family, by_framework in NAMES.items():
        for framework, offered in by_framework.items():
            names, listed = offered(), set(TABLES[family][framework])
            found += [f"parity of {family}: {framework} has {name}" for name in sorted(names - listed)]
            found += [f"parity of {family}: {framework} has no {name}" for name in sorted(listed - names)]
    return found
