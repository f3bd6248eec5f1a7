"""Pooling over a sliding window."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.complexity.base import Cost, Layer, Shape
from optserve_server.complexity.windows import LayerPadding, PoolingForm, check_window, count_window_positions
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class Pooling(Layer):
    """The largest element or the mean of each window, separately for each channel.

    No parameters and no multiply-adds. With k elements of the window, each element of the
    output takes k - 1 comparisons, or k - 1 additions and a division.
    """

    window: tuple[int, ...] = hyper()
    strides: tuple[int, ...] = hyper(())
    padding: LayerPadding = hyper(LayerPadding.VALID)
    form: PoolingForm = hyper(PoolingForm.MAX)

    def __post_init__(self) -> None:
        # Resolved here, so that the echo states it.
        object.__setattr__(self, "strides", self.strides or self.window)
        super().__post_init__()

    def validate(self) -> None:
        check_window(self.window, "window", strides=self.strides)

    def cost(self, shape: Shape) -> Cost:
        near = (1,) * len(self.window)
        output = (
            *count_window_positions(shape, self.window, self.strides, near, self.padding, "window"),
            shape[-1],
        )
        return Cost(
            output, operations=math.prod(output) * self.form.operations_per_window(math.prod(self.window))
        )
