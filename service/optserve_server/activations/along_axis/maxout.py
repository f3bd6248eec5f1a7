"""Maxout (Goodfellow et al., 2013)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optserve_server.activations.base import Activation, Floats
from optserve_server.errors import Reason, mismatch_error
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class Maxout(Activation):
    """The greatest of each group of group_size neighbours along an axis.

    The gradient goes to the first of a group that is as great as its greatest.
    """

    group_size: int = hyper(ge=1)
    axis: int = hyper(-1)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """``shape`` with the axis shorter by the group size."""
        axis, groups = self._locate_groups(shape)
        return (*shape[:axis], groups, *shape[axis + 1 :])

    def _locate_groups(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """The axis counted from the front, and how many groups lie along it."""
        self.check_rank(len(shape))
        axis = self.axis % len(shape)
        if shape[axis] % self.group_size:
            text = f"axis {axis} has {shape[axis]} elements, which makes no groups of {self.group_size}"
            expected = f"a multiple of {self.group_size}"
            raise mismatch_error(Reason.SHAPE_MISMATCH, "input", expected, shape[axis], text)
        return axis, shape[axis] // self.group_size

    def _split_groups(self, x: Floats) -> tuple[Floats, int]:
        """``x`` with the axis cut in two, and where the groups' own axis is."""
        axis, groups = self._locate_groups(x.shape)
        return x.reshape(*x.shape[:axis], groups, self.group_size, *x.shape[axis + 1 :]), axis + 1

    def _forward(self, x: Floats, slope: Floats | None) -> Any:
        cut, axis = self._split_groups(x)
        return np.max(cut, axis=axis)

    def _backward(self, x: Floats, dy: Floats, slope: Floats | None) -> Any:
        cut, axis = self._split_groups(x)
        dx = np.zeros_like(cut)
        first = np.argmax(cut, axis=axis, keepdims=True)
        np.put_along_axis(dx, first, np.expand_dims(dy, axis), axis)
        return dx.reshape(x.shape)
