"""Programs that between them use every operation, store and reduction, and inputs for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from optserve_server.arrays.kernel import Segments
from optserve_server.arrays.narrow_floats import FLOAT32, FLOAT64
from optserve_server.arrays.program import Op, Program, ReductionKind
from optserve_server.arrays.trace import Tracer

WIRE = [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]
COMPUTE = [FLOAT32, FLOAT64]
SIZES = (1, 7, 63, 64, 65, 1023, 1025, 8191, 8193, 3 * 8192 + 129)

SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-40, 5e-324, 6e-8, 5.96e-8]
SPECIAL += [2.98e-8, 6.1e-5, 65504.0, 65519.9, 65520.0, 3.4e38, -3.4e38, 3.3895e38, 3.3961e38, 1e308]
SPECIAL += [1 + 2**-8, 1 + 2**-8 + 2**-40, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 2**-11 + 2**-40, 1 + 3 * 2**-11]

APPROXIMATE = (Op.EXP, Op.EXPM1, Op.LOG, Op.LOG1P, Op.TANH)
"""Operations that executors may round differently."""


def values(size: int, seed: int, dtype: Any) -> npt.NDArray[Any]:
    """Numbers of many magnitudes, with special ones among them."""
    random = np.random.default_rng(seed)
    numbers = random.standard_normal(size) * 10.0 ** random.integers(-9, 9, size)
    chosen = random.random(size) < 0.3
    numbers[chosen] = random.choice(SPECIAL, int(chosen.sum()))
    with np.errstate(all="ignore"):
        return numbers.astype(dtype)


def binary() -> Program:
    """Every exact operation on every pair of a loaded value, another, and constants."""
    t = Tracer()
    a, b, s, c = t.load("a"), t.load("b"), t.scalar("s"), t.segment_scalar("c")
    pairs: list[tuple[Any, Any]] = [(a, b), (a, s), (c, a), (a, 0.0), (-0.0, b), (a, a)]
    for i, (x, y) in enumerate(pairs):
        t.store(f"add{i}", x + y)
        t.store(f"sub{i}", x - y)
        t.store(f"mul{i}", x * y)
        t.store(f"div{i}", x / y)
        t.store(f"max{i}", t.maximum(x, y))
        t.store(f"min{i}", t.minimum(x, y))
    return t.build_program()


def comparing() -> Program:
    """Every comparison, and choices among values, scalars and constants."""
    t = Tracer()
    a, b, s = t.load("a"), t.load("b"), t.scalar("s")
    t.store("lt", t.where(a < b, a, b))
    t.store("le", t.where(a <= 0.0, s, -b))
    t.store("gt", t.where(a > s, 1.0, -0.0))
    t.store("ge", t.where(a <= 2.0, a, float("nan")))
    t.store("eq", t.where(a == b, float("-inf"), t.where(a < 0.0, a, b)))
    t.store("b", t.where(b > 0.0, b, t.where(b < a, a, t.maximum(b, a))))
    return t.build_program()


def unary() -> Program:
    """Every exact operation on one value."""
    t = Tracer()
    a = t.load("a")
    for name, x in {"neg": -a, "sqrt": t.sqrt(a), "abs": t.abs(a), "sign": t.sign(a)}.items():
        t.store(name, x)
    t.store("abs_sqrt", t.sqrt(t.abs(-a)))
    t.store("minus_zero", -t.sign(a) * 0.0)
    return t.build_program()


def alias_arrays() -> Program:
    """Arrays exchanged, one overwritten before its last reader, one stored from a number."""
    t = Tracer()
    a, b, g = t.load("a"), t.load("b"), t.load("g")
    t.store("a", b)
    t.store("b", a)
    t.store("g", g * 2.0)
    t.store("old", g)
    t.store("h", t.load("h") + g)
    t.store("late", t.load("h") - a * (b + g))
    t.store("constant", -0.0)
    t.store("number", t.segment_scalar("c"))
    t.store("again", g * 2.0)
    return t.build_program()


def reducing() -> Program:
    """Every reduction, of loaded and of computed values, beside stores."""
    t = Tracer()
    a, g, c = t.load("a"), t.load("g"), t.segment_scalar("c")
    t.reduce("squares", ReductionKind.SUM_OF_SQUARES, g)
    t.reduce("magnitudes", ReductionKind.SUM_OF_MAGNITUDES, a - g)
    t.reduce("bad", ReductionKind.NON_FINITE_COUNT, a * c)
    t.store("a", a - c * g)
    return t.build_program()


PROGRAMS: dict[str, Callable[[], Program]] = {
    f.__name__: f for f in (binary, comparing, unary, alias_arrays, reducing)
}


def inputs(
    program: Program, dtype: np.dtype[Any], storage: dict[str, np.dtype[Any]], size: int, seed: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """An array for each of the program's."""
    return {
        name: values(size, seed + i, storage.get(name, dtype)) for i, name in enumerate(program.arrays)
    }  # fmt: skip


def numbers(program: Program) -> dict[str, float]:
    """A number for each of the program's scalars; float32 rounds it."""
    return {name: 0.1 * (i + 1) for i, name in enumerate(program.scalars)}


def segments(program: Program, size: int, seed: int = 0) -> Segments:
    """A cut into a few segments, some of them short."""
    random = np.random.default_rng(seed)
    marks = np.unique(np.append(random.integers(1, size + 1, min(size, 6)), size)).astype(np.int64)
    return Segments(marks, {name: random.standard_normal(len(marks)) for name in program.segment_scalars})


def storages(program: Program) -> Iterator[dict[str, np.dtype[Any]]]:
    """The same dtype for all arrays, and a cycle of all four."""
    for wire in WIRE:
        yield dict.fromkeys(program.arrays, wire)
    yield dict(zip(program.arrays, itertools.cycle(WIRE), strict=False))


def same_bits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether all bits are equal, any nan being as good as another."""
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    nan = np.isnan(a)
    return (
        a.dtype == b.dtype
        and bool(np.array_equal(nan, np.isnan(b)))
        and bool(np.array_equal(a.view(unsigned)[~nan], b.view(unsigned)[~nan]))
    )
