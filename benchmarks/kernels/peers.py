"""The same steps by torch's fused optimizers, and by optax under jit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.kernels.ours import DECAY, RATE, Array

TORCH: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": functools.partial(torch.optim.AdamW, weight_decay=DECAY),
    "SGD with momentum": functools.partial(torch.optim.SGD, momentum=0.9),
}


class Torch:
    """A step of torch's fused optimizer.

    Args:
        rule: its name in `TORCH`.
        threads: of OpenMP.
        arrays: the first values, an array for each tensor.
        gradients: an array for each tensor.
    """

    def __init__(self, rule: str, threads: int, arrays: Sequence[Array], gradients: Sequence[Array]) -> None:
        self.tensors = [torch.from_numpy(array.copy()).requires_grad_() for array in arrays]
        for tensor, gradient in zip(self.tensors, gradients, strict=True):
            tensor.grad = torch.from_numpy(gradient)
        self.optimizer = TORCH[rule](self.tensors, lr=RATE, fused=True)
        self._threads = threads

    def __call__(self) -> None:
        """One step."""
        torch.set_num_threads(self._threads)
        self.optimizer.step()

    def parameters(self) -> Array:
        """A copy of the first tensor."""
        return np.array(self.tensors[0].detach().numpy())


class TorchClipAverage(Torch):
    """`clip_grad_norm_`, the fused step, and an average of the weights over all tensors at once."""

    def __init__(self, rule: str, threads: int, arrays: Sequence[Array], gradients: Sequence[Array]) -> None:
        super().__init__(rule, threads, arrays, [gradient.copy() for gradient in gradients])
        self.average = [tensor.detach().clone() for tensor in self.tensors]

    def __call__(self) -> None:
        """One step."""
        torch.set_num_threads(self._threads)
        torch.nn.utils.clip_grad_norm_(self.tensors, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.tensors, 0.01)


class Optax:
    """A step of optax, compiled whole, its arguments given away.

    Args:
        rule: its name.
        parameters: the first values.
        gradient: the gradient.
    """

    def __init__(self, rule: str, parameters: Array, gradient: Array) -> None:
        import jax
        import optax

        optimizer = {
            "Adam": lambda: optax.adam(RATE),
            "AdamW": lambda: optax.adamw(RATE, weight_decay=DECAY),
            "SGD with momentum": lambda: optax.sgd(RATE, momentum=0.9),
        }[rule]()

        def step(p: Any, state: Any, g: Any) -> Any:
            updates, state = optimizer.update(g, state, p)
            return optax.apply_updates(p, updates), state

        self._step = jax.jit(step, donate_argnums=(0, 1))
        self._p, self._g = jax.numpy.array(parameters), jax.numpy.array(gradient)
        self._state = optimizer.init(self._p)

    def __call__(self) -> None:
        """One step, waited for."""
        self._p, self._state = self._step(self._p, self._state, self._g)
        self._p.block_until_ready()

    def parameters(self) -> Array:
        """A copy of the parameters."""
        return np.array(self._p)
