"""Runs one loss of Keras, PyTorch or optax: value, values per example and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from tests.conformance.sources.functions import REDUCTIONS
from tests.conformance.sources.losses.loss_inputs import Given

Answer = dict[str, Any]


def answer(value: Any, each: Any, slope: Any, reduction: str) -> Answer:
    found = {"per_example": np.asarray(each).tolist(), "gradient": np.asarray(slope).tolist()}
    return found if reduction == "NONE" else {"value": float(value), **found}


def keras(make: Callable[..., Any], given: Given, reduction: str) -> Answer:
    """A loss class of Keras, with its own reduction and weighting."""
    target, prediction = jnp.array(given["target"]), jnp.array(given["prediction"])
    weights = jnp.array(given["sample_weight"]) if "sample_weight" in given else None
    loss, unreduced = make(reduction=REDUCTIONS[reduction]), make(reduction=None)

    def reduce(p: Any) -> Any:
        return jnp.sum(loss(target, p, sample_weight=weights))

    value, slope = jax.value_and_grad(reduce)(prediction)
    return answer(value, unreduced(target, prediction, sample_weight=weights), slope, reduction)


def optax(function: Callable[[Any, Any], Any], given: Given, reduction: str) -> Answer:
    """A function of optax from which values per example are made; reductions are the caller's."""
    target, prediction = jnp.array(given["target"]), jnp.array(given["prediction"])
    weights = jnp.array(given.get("sample_weight", 1.0))
    factor = jnp.mean if reduction == "SUM_OVER_BATCH_SIZE" else jnp.sum

    def reduce(p: Any) -> Any:
        return factor(function(p, target) * weights)

    value, slope = jax.value_and_grad(reduce)(prediction)
    return answer(value, function(prediction, target) * weights, slope, reduction)


def pytorch(
    each: Callable[[Any, Any], Any], reduced: Callable[[Any, Any], Any], given: Given, reduction: str
) -> Answer:
    """A function of PyTorch twice: per example, and reduced by PyTorch itself."""
    target = torch.tensor(given["target"])
    prediction = torch.tensor(given["prediction"], requires_grad=True)
    value = reduced(prediction, target)
    value.backward()
    per_example = each(prediction, target).detach()
    return answer(float(value.detach()), per_example, prediction.grad, reduction)
