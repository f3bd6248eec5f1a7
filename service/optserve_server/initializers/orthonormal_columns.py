"""Orthonormal columns by a QR decomposition in panels (Schreiber and Van Loan, 1989)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.initializers.draws import BLOCK_ELEMENTS

MAX_PANEL_COLUMNS = 64

Matrix = npt.NDArray[np.float64]


def orthonormal_columns(matrix: Matrix, check: Callable[[], None]) -> Matrix:
    """Q of the decomposition QR of a matrix, with signs such that R's diagonal is not negative.

    One call of LAPACK's would be as fast, but takes minutes for a large matrix, and cannot be ended.

    Args:
        matrix: float64 of shape (rows, columns), no more columns than rows. It is overwritten.
        check: called between calls of the linear algebra library; what it raises ends the work.

    Returns:
        Q, float64 of the same shape.
    """
    rows, columns = matrix.shape
    width = max(1, min(MAX_PANEL_COLUMNS, BLOCK_ELEMENTS // max(1, rows)))
    signs = np.empty(columns)
    panels = []
    for start in range(0, columns, width):
        check()
        stop = min(start + width, columns)
        reflectors, diagonal, factor = _decompose_panel(matrix[start:, start:stop])
        signs[start:stop] = np.where(diagonal < 0, -1.0, 1.0)
        _reflect(matrix[start:, stop:], reflectors, factor.T, check)
        matrix[start:, start:stop] = reflectors
        panels.append((start, stop, factor))
    q = np.eye(rows, columns)
    for start, stop, factor in reversed(panels):
        # Left of the panel, these rows of Q are still those of the identity: zeros.
        _reflect(q[start:, start:], matrix[start:, start:stop], factor, check)
    q *= signs
    return q


def _decompose_panel(panel: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Householder vectors V, R's diagonal, and the triangular T for which Q = I - V T V^T."""
    raw, taus = np.linalg.qr(panel, mode="raw")
    reflectors: Any = np.tril(raw.T, -1)
    diagonal = np.diagonal(raw).copy()
    np.fill_diagonal(reflectors, 1.0)
    products, factor = reflectors.T @ reflectors, np.diag(taus)
    for column in range(1, len(taus)):
        before = factor[:column, :column] @ products[:column, column]
        factor[:column, column] = -taus[column] * before
    return reflectors, diagonal, factor


def _reflect(target: Matrix, reflectors: Matrix, factor: Matrix, check: Callable[[], None]) -> None:
    """Multiplies by I - V T V^T from the left, in place, some columns at a time."""
    rows, columns = target.shape
    width = max(1, BLOCK_ELEMENTS // max(1, rows))
    for start in range(0, columns, width):
        check()
        part = target[:, start : start + width]
        part -= reflectors @ (factor @ (reflectors.T @ part))
