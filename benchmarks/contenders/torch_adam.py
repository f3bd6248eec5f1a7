"""The model that torch's peers serve: one parameter under fused Adam."""

from __future__ import annotations

from typing import Any

import torch


class TorchAdam:
    """Parameters and their optimizer.

    Args:
        n: how many parameters there are.
    """

    def __init__(self, n: int) -> None:
        self.parameter = torch.zeros(n, requires_grad=True)
        self._optimizer = torch.optim.Adam([self.parameter], lr=1e-3, fused=True)

    def step(self, gradient: Any) -> Any:
        """The parameters after one step, without a copy."""
        self.parameter.grad = gradient
        self._optimizer.step()
        return self.parameter.detach()
