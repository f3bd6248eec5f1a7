"""The table of `non_finite` beside what the frameworks make of the same gradients."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
import optax
import torch

from tests.conformance.non_finite import CLIPPED, Gradient


def problems() -> list[str]:
    """The lines that a framework contradicts, as sentences."""
    found = []
    for line in CLIPPED:
        for name, expected, actual in (
            ("torch", line.by_global_norm, on_torch(line.gradient, joint=True)),
            ("torch", line.by_tensor_norm, on_torch(line.gradient, joint=False)),
            ("optax", line.by_global_norm, on_optax(line.gradient)),
            ("keras", line.by_tensor_norm, on_keras(line.gradient)),
        ):
            if not all(
                np.allclose(a, e, rtol=1e-6, equal_nan=True) for a, e in zip(actual, expected, strict=True)
            ):
                found.append(f"clipping {line.gradient}: {name} makes {actual}, the table says {expected}")
    return found


def on_torch(gradient: Gradient, *, joint: bool) -> list[Any]:
    tensors = [torch.zeros(len(values), dtype=torch.float64, requires_grad=True) for values in gradient]
    for tensor, values in zip(tensors, gradient, strict=True):
        tensor.grad = torch.tensor(values, dtype=torch.float64)
    for together in [tensors] if joint else [[tensor] for tensor in tensors]:
        torch.nn.utils.clip_grad_norm_(together, 1.0)
    return [tensor.grad.tolist() for tensor in tensors if tensor.grad is not None]


def on_optax(gradient: Gradient) -> list[Any]:
    clip = optax.clip_by_global_norm(1.0)
    updates, _ = clip.update([jnp.array(values) for values in gradient], clip.init(None))
    return [np.asarray(values).tolist() for values in updates]


def on_keras(gradient: Gradient) -> list[Any]:
    clipped = keras.optimizers.SGD(clipnorm=1.0)._clip_gradients([jnp.array(values) for values in gradient])
    return [np.asarray(values).tolist() for values in clipped]
