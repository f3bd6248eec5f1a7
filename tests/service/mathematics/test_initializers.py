"""Initializers: moments, ranges, fans, and that draws repeat."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from optserve_server.errors import DomainError, Reason
from optserve_server.initializers import REGISTRY
from optserve_server.initializers.base import Initializer
from optserve_server.initializers.constant import Constant
from optserve_server.initializers.draws import BLOCK_ELEMENTS, Draws
from optserve_server.initializers.glorot import Glorot
from optserve_server.initializers.he import He
from optserve_server.initializers.identity import Identity
from optserve_server.initializers.lecun import Lecun
from optserve_server.initializers.normal import Normal
from optserve_server.initializers.orthogonal import Orthogonal
from optserve_server.initializers.orthonormal_columns import orthonormal_columns
from optserve_server.initializers.truncated_normal import STDDEV, TruncatedNormal
from optserve_server.initializers.uniform import Uniform
from optserve_server.initializers.variance_scaling import (
    FanMode,
    InitializerDistribution,
    VarianceScaling,
    compute_fans,
)
from optserve_server.initializers.zeros import Zeros

UNIFORM, NORMAL, TRUNCATED = InitializerDistribution
EVERY: list[Initializer] = [cls(**({"value": 2.5} if cls is Constant else {})) for cls in REGISTRY.values()]
ANY_RANK = [i for i in EVERY if not isinstance(i, Orthogonal | Identity)]


def draw(
    initializer: Initializer, shape: tuple[int, ...], dtype: type = np.float64, seed: int = 1
) -> np.ndarray:
    return initializer.initialize(shape, np.dtype(dtype), np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("initializer", "mean", "stddev", "limit"),
    [
        (Normal(mean=3.0, stddev=0.5), 3.0, 0.5, math.inf),
        (TruncatedNormal(mean=3.0, stddev=0.5), 3.0, 0.5 * STDDEV, 1.0),
        (He(), 0.0, math.sqrt(2 / 500), 2 * math.sqrt(2 / 500) / STDDEV),
        (He(distribution=NORMAL), 0.0, math.sqrt(2 / 500), math.inf),
        (He(distribution=UNIFORM), 0.0, math.sqrt(2 / 500), math.sqrt(6 / 500)),
        (Uniform(), 0.0, 0.05 / math.sqrt(3), 0.05),
        (Uniform(minimum=1.0, maximum=3.0), 2.0, 1 / math.sqrt(3), 1.0),
        (Lecun(), 0.0, math.sqrt(1 / 500), 2 * math.sqrt(1 / 500) / STDDEV),
        (Lecun(distribution=NORMAL), 0.0, math.sqrt(1 / 500), math.inf),
        (Lecun(distribution=UNIFORM), 0.0, math.sqrt(1 / 500), math.sqrt(3 / 500)),
        (VarianceScaling(), 0.0, math.sqrt(1 / 500), 2 * math.sqrt(1 / 500) / STDDEV),
        (
            VarianceScaling(scale=3.0, mode=FanMode.OUT),
            0.0,
            math.sqrt(3 / 400),
            2 * math.sqrt(3 / 400) / STDDEV,
        ),
        (
            VarianceScaling(mode=FanMode.AVERAGE, distribution=UNIFORM),
            0.0,
            math.sqrt(1 / 450),
            math.sqrt(3 / 450),
        ),
        (Glorot(), 0.0, math.sqrt(2 / 900), math.sqrt(6 / 900)),
        (Glorot(distribution=NORMAL), 0.0, math.sqrt(2 / 900), math.inf),
        (Glorot(distribution=TRUNCATED), 0.0, math.sqrt(2 / 900), 2 * math.sqrt(2 / 900) / STDDEV),
    ],
    ids=repr,
)
def test_moments(initializer: Initializer, mean: float, stddev: float, limit: float) -> None:
    """200,000 draws: the mean is known to 0.0023 deviations, the deviation to 0.16 %."""
    drawn = draw(initializer, (500, 400))
    assert abs(drawn.mean() - mean) < 0.01 * stddev
    assert drawn.std() == pytest.approx(stddev, rel=0.01)
    assert np.abs(drawn - mean).max() <= limit
    if limit < math.inf:
        assert np.abs(drawn - mean).max() > 0.999 * limit
    else:
        assert np.abs(drawn - mean).max() > 3.5 * stddev


def test_the_deviation_of_a_truncated_normal_is_as_computed() -> None:
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    assert math.sqrt(1 - 4 * density / math.erf(math.sqrt(2))) == pytest.approx(STDDEV, rel=1e-14)


def test_constants() -> None:
    assert draw(Zeros(), (2, 3)).tolist() == [[0.0] * 3] * 2
    assert draw(Constant(value=2.5), (2,)).tolist() == [2.5] * 2


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), (1, 1)),
        ((7,), (7, 7)),
        ((4, 3), (4, 3)),
        ((5, 4, 3), (20, 15)),
        ((3, 3, 8, 16), (72, 144)),
        ((0, 3), (0, 3)),
    ],
)
def test_fans_are_those_of_keras(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    assert compute_fans(shape) == expected


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (3, 3, 2, 5), (0, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("initializer", ANY_RANK, ids=repr)
def test_every_shape_and_dtype(initializer: Initializer, dtype: type, shape: tuple[int, ...]) -> None:
    drawn = draw(initializer, shape, dtype)
    assert isinstance(drawn, np.ndarray)
    assert (drawn.shape, drawn.dtype, drawn.flags.c_contiguous) == (shape, dtype, True)
    assert np.array_equal(drawn, draw(initializer, shape, dtype))
    assert np.array_equal(drawn, draw(initializer, shape).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (3, 3, 2, 5), (2, 30), (0, 4), (1, 1)])
def test_orthogonal_matrices(shape: tuple[int, ...], dtype: type) -> None:
    drawn = draw(Orthogonal(gain=1.5), shape, dtype)
    assert (drawn.shape, drawn.dtype, drawn.flags.c_contiguous) == (shape, dtype, True)
    matrix = drawn.reshape(-1, shape[-1]).astype(np.float64)
    product = matrix.T @ matrix if len(matrix) >= matrix.shape[1] else matrix @ matrix.T
    assert product == pytest.approx(2.25 * np.eye(len(product)), abs=20 * float(np.finfo(dtype).eps))
    assert np.array_equal(drawn, draw(Orthogonal(gain=1.5), shape, dtype))


def test_orthogonal_matrices_are_evenly_distributed() -> None:
    """Of either determinant, and with the first entry of either sign, as often."""
    rng = np.random.default_rng(0)
    drawn = [Orthogonal().initialize((3, 3), np.dtype(np.float64), rng) for _ in range(2000)]
    assert abs(np.mean(np.linalg.det(drawn))) < 0.1
    assert abs(np.mean(drawn)) < 0.02
    assert np.mean(np.square(drawn), axis=0) == pytest.approx(np.full((3, 3), 1 / 3), abs=0.03)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2), (0, 2)])
def test_identity(shape: tuple[int, int]) -> None:
    assert np.array_equal(draw(Identity(gain=2.0), shape, np.float32), 2 * np.eye(*shape, dtype=np.float32))


@pytest.mark.parametrize(
    ("initializer", "shape"),
    [(Orthogonal(), ()), (Orthogonal(), (3,)), (Identity(), (3,)), (Identity(), (2, 2, 2))],
)
def test_tensors_of_another_rank_are_refused(initializer: Initializer, shape: tuple[int, ...]) -> None:
    with pytest.raises(DomainError) as caught:
        draw(initializer, shape)
    assert caught.value.reason is Reason.SHAPE_MISMATCH


def test_a_uniform_distribution_may_be_a_point_but_not_reversed() -> None:
    assert draw(Uniform(minimum=2.0, maximum=2.0), (3,)).tolist() == [2.0] * 3
    assert np.isfinite(draw(Uniform(minimum=-1.7e308, maximum=1.7e308), (99,))).all()
    with pytest.raises(DomainError) as caught:
        Uniform(minimum=2.0, maximum=1.0)
    assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, "minimum")


def test_seeds_differ() -> None:
    assert not np.array_equal(draw(He(), (9,), seed=1), draw(He(), (9,), seed=2))


@pytest.mark.parametrize("initializer", [Constant(value=1e39), Normal(mean=-1e39)])
def test_numbers_too_large_for_the_dtype_are_refused(initializer: Initializer) -> None:
    assert np.isfinite(draw(initializer, (3,))).all()
    with pytest.raises(DomainError) as caught:
        draw(initializer, (3,), np.float32)
    assert caught.value.reason is Reason.OUT_OF_RANGE


@pytest.mark.parametrize("shape", [(), (0, 3), (BLOCK_ELEMENTS // 8, 17)])
def test_blocks_change_no_numbers(shape: tuple[int, ...]) -> None:
    drawn, whole = Draws(np.random.default_rng(1)), np.random.default_rng(1)
    assert np.array_equal(drawn.draw_normal(shape), whole.standard_normal(shape))
    assert np.array_equal(drawn.draw_uniform(shape), whole.random(shape))


@pytest.mark.parametrize("shape", [(5, 0), (1, 1), (64, 64), (65, 65), (200, 130), (300, 7)])
def test_panels_give_the_columns_of_one_decomposition(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(1).standard_normal(shape)
    q, r = np.linalg.qr(matrix)
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
    assert orthonormal_columns(matrix, lambda: None) == pytest.approx(q, abs=1e-13)


def test_few_columns_of_many_rows_are_decomposed_one_by_one() -> None:
    matrix = np.random.default_rng(1).standard_normal((BLOCK_ELEMENTS + 1, 3))
    q = orthonormal_columns(matrix, lambda: None)
    assert q.T @ q == pytest.approx(np.eye(3), abs=1e-12)


@pytest.mark.parametrize(
    ("initializer", "shape", "calls"),
    [
        (Normal(), (3, BLOCK_ELEMENTS), 3),
        (Uniform(), (3, BLOCK_ELEMENTS), 3),
        (TruncatedNormal(), (3, BLOCK_ELEMENTS), 6),
        (Orthogonal(), (640, 640), 20),
    ],
    ids=repr,
)
def test_long_work_can_be_ended_at_each_block(
    initializer: Initializer, shape: tuple[int, ...], calls: int
) -> None:
    class Ended(Exception):
        pass

    def check(left: Iterator[int]) -> None:
        if next(left, None) is None:
            raise Ended

    for count in (1, calls):
        ends = partial(check, iter(range(count - 1)))
        with pytest.raises(Ended):
            initializer.initialize(shape, np.dtype(np.float32), np.random.default_rng(1), ends)
