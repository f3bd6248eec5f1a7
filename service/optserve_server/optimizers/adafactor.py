"""Adafactor (Shazeer and Stern, 2018, arXiv:1804.04235)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.matrix import Matrix, MatrixRule, norm


class AdafactorForm(StrEnum):
    """Where epsilon1 enters."""

    SQUARES = "SQUARES"
    FLOOR = "FLOOR"


@dataclass(frozen=True)
class Adafactor(MatrixRule):
    """With decay d = t^beta2_decay, row and column averages over two dimensions

    r = (1 - d)*r + d*mean_of_rows(g^2); c = (1 - d)*c + d*mean_of_columns(g^2)
    v = r*c/mean(r), or v = (1 - d)*v + d*g^2 for what has fewer dimensions or smaller ones
    u = g/sqrt(v); u /= max(1, rms(u)/clip_threshold)
    p -= max(epsilon2, rms(p))*(min(lr, 1/sqrt(t)) if `relative_step`, else lr) * u

    The two dimensions are the last, or the largest if `factor_largest`; each must be at least
    `min_dim_size_to_factor`.

    SQUARES  epsilon1 is added to g^2                                 (Keras, optax, the paper)
    FLOOR    mean(r) is at least epsilon1, and v at least its square         (PyTorch)

    FLOOR with an epsilon1 of 0 takes the dtype's own. rms(p) is taken after decoupled
    decay under SQUARES, as Keras does, and before it under FLOOR, as PyTorch does.
    In the frame: the gradient over the root of a factored second moment.
    """

    all_slots: ClassVar[tuple[str, ...]] = ("r", "c", "v")

    # optax multiplies by no rate unless one is given.
    learning_rate: float = hyper(1e-3, torch=1e-2, optax=1.0, ge=0)
    beta2_decay: float = hyper(-0.8, lt=0)
    epsilon1: float = hyper(1e-30, torch=0.0, ge=0)
    epsilon2: float = hyper(1e-3, ge=0)
    clip_threshold: float = hyper(1.0, gt=0)
    form: AdafactorForm = hyper(AdafactorForm.SQUARES, torch=AdafactorForm.FLOOR)
    min_dim_size_to_factor: int = hyper(0, optax=128, ge=0)
    factor_largest: bool = hyper(False, optax=True)
    relative_step: bool = hyper(True, optax=False)

    def validate(self) -> None:
        if self.form is AdafactorForm.SQUARES and self.epsilon1 == 0:
            text = "epsilon1 is 0, but under SQUARES nothing else keeps second moments from zero"
            raise conflict_error("epsilon1", text)

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset(self.all_slots)

    @property
    def state_shape_hyperparameters(self) -> tuple[object, ...]:
        return self.min_dim_size_to_factor, self.factor_largest

    def tensor_slots(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        axes = self._factor_dimensions(shape)
        if axes is None:
            return {"v": shape}
        rows, columns = axes
        return {"r": _remove_axis(shape, columns), "c": _remove_axis(shape, rows)}

    def _factor_dimensions(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """The dimensions of rows and of columns; None if the second moment is kept whole."""
        if len(shape) < 2:
            return None
        axes = list(range(len(shape)))
        if self.factor_largest:
            axes.sort(key=shape.__getitem__)  # stable: of equal ones the later counts as larger
        rows, columns = axes[-2:]
        return None if min(shape[rows], shape[columns]) < self.min_dim_size_to_factor else (rows, columns)

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        rate = min(learning_rate, 1 / math.sqrt(step)) if self.relative_step else learning_rate
        return {"decay": step**self.beta2_decay, "rate": rate}

    def step(
        self, xp: Any, p: Matrix, g: Matrix, slots: Mapping[str, Matrix],
        numbers: Mapping[str, float], kept: float,
    ) -> tuple[Matrix, dict[str, Matrix]]:  # fmt: skip
        decay, squares, floor = numbers["decay"], g * g, 0.0
        if self.form is AdafactorForm.SQUARES:
            p, kept = kept * p, 1.0
            squares = squares + self.epsilon1
        else:
            floor = self.epsilon1 or float(xp.finfo(p.dtype).eps)
        axes = self._factor_dimensions(p.shape)
        new = {"v": squares}
        if axes is not None:
            rows, columns = axes
            new = {"r": squares.mean(axis=columns), "c": squares.mean(axis=rows)}
        after = {name: (1 - decay) * slots[name] + decay * of_step for name, of_step in new.items()}
        v = (
            after["v"]
            if axes is None
            else _reconstruct_second_moment(xp, after["r"], after["c"], axes, floor)
        )
        u = g / xp.sqrt(xp.maximum(v, floor * floor))
        # max keeps a NaN that comes first.
        u = u / max(rms(xp, u) / self.clip_threshold, 1.0)
        size = max(rms(xp, p), self.epsilon2)
        return kept * p - (size * numbers["rate"]) * u, after


def _reconstruct_second_moment(xp: Any, r: Matrix, c: Matrix, axes: tuple[int, int], floor: float) -> Matrix:
    rows, columns = axes
    r = xp.expand_dims(r, columns)
    return r / xp.maximum(r.mean(axis=rows, keepdims=True), floor) * xp.expand_dims(c, rows)


def _remove_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def rms(xp: Any, x: Matrix) -> float:
    """The root mean square of all elements, 0 if there are none."""
    return norm(xp, x) / math.sqrt(max(x.size, 1))
