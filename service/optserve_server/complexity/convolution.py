"""Convolutions over one to three dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.complexity.base import MAX_EXTENT, Cost, Layer, Shape, format_shape, shape_mismatch_error
from optserve_server.complexity.windows import LayerPadding, check_window, count_window_positions
from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class Convolution(Layer):
    """Each output channel sums a window over the channels of its group, and adds a bias.

    With k elements of the kernel, c channels, g groups, f filters and n places of the
    output:

        parameters     k*(c/g)*f + f
        multiply-adds  n*k*(c/g)*f; a product with padding counts as any other
        besides        n*f additions of the bias
    """

    filters: int = hyper(ge=1, le=MAX_EXTENT)
    kernel: tuple[int, ...] = hyper()
    strides: tuple[int, ...] = hyper(())
    padding: LayerPadding = hyper(LayerPadding.VALID)
    dilation: tuple[int, ...] = hyper(())
    groups: int = hyper(1, ge=1, le=MAX_EXTENT)
    use_bias: bool = hyper(True)

    def __post_init__(self) -> None:
        # Resolved here, so that the echo states them.
        object.__setattr__(self, "strides", self.strides or (1,) * len(self.kernel))
        object.__setattr__(self, "dilation", self.dilation or (1,) * len(self.kernel))
        super().__post_init__()

    def validate(self) -> None:
        check_window(self.kernel, "kernel", strides=self.strides, dilation=self.dilation)
        if self.filters % self.groups:
            raise conflict_error("groups", f"{self.groups} groups do not divide {self.filters} filters")

    def cost(self, shape: Shape) -> Cost:
        spots = count_window_positions(
            shape, self.kernel, self.strides, self.dilation, self.padding, "kernel"
        )
        channels = shape[-1]
        if channels % self.groups:
            message = f"{self.groups} groups do not divide the channels of the input, {format_shape(shape)}"
            raise shape_mismatch_error(message, f"a multiple of {self.groups} channels", shape, "groups")
        output = (*spots, self.filters)
        kernel = (*self.kernel, channels // self.groups, self.filters)
        return Cost(
            output,
            tensors=(kernel, *((self.filters,),) * self.use_bias),
            multiply_adds=math.prod(spots) * math.prod(kernel),
            operations=math.prod(output) * self.use_bias,
        )
