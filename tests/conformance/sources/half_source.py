"""float16 and bfloat16 in PyTorch: computed in float32 and rounded once, as the service does.

Its log-softmax is not listed, because it rounds the logarithm of the sum as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from tests.conformance.sources.losses.loss_inputs import KINDS

X = [[-4.0, -1.5, -0.375, -0.0625, 0.0, 0.125], [0.4375, 0.75, 1.25, 2.5, 5.5, 8.25]]

ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "celu": F.celu,
    "elu": F.elu,
    "gelu": F.gelu,
    "glu": F.glu,
    "hard_shrink": F.hardshrink,
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "hard_tanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "log_sigmoid": F.logsigmoid,
    "mish": F.mish,
    "relu": F.relu,
    "relu6": F.relu6,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "soft_shrink": F.softshrink,
    "softmax": lambda x: F.softmax(x, -1),
    "softplus": F.softplus,
    "tanh": torch.tanh,
}

LOSSES: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "mean_squared_error": ("real", F.mse_loss),
    "mean_absolute_error": ("real", F.l1_loss),
    "smooth_l1": ("real", F.smooth_l1_loss),
    "huber": ("real", F.huber_loss),
}
"""Losses that PyTorch computes element by element in one kernel."""

DTYPES = (torch.float16, torch.bfloat16)


def problems() -> list[str]:
    """Where PyTorch's result is not that of float32, rounded once."""
    found = []
    for dtype in DTYPES:
        for name, function in ACTIVATIONS.items():
            narrow = torch.tensor(X, dtype=dtype)
            found += differences(name, dtype, function(narrow), function(narrow.float()))
        for name, (data, loss) in LOSSES.items():
            p, y = (torch.tensor(KINDS[data][part], dtype=dtype) for part in ("prediction", "target"))
            found += differences(
                name, dtype, loss(p, y, reduction="none"), loss(p.float(), y.float(), reduction="none")
            )
    return found


def differences(name: str, dtype: Any, narrow: Any, wide: Any) -> list[str]:
    """A sentence if a result is not the rounded one; libraries may differ by two units of float32."""
    unit = 2.0**-23 * wide.abs().max()
    near = [wide + step * unit for step in (-2, -1, 0, 1, 2)]
    right = torch.stack([value.to(dtype) == narrow for value in near]).any(0)
    return [] if bool(right.all()) else [f"{name} of {dtype} is not float32's, rounded once"]
