"""Random programs mean the same to every executor."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optserve_server.arrays.narrow_floats import FLOAT32, FLOAT64
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Program, ReductionKind
from optserve_server.arrays.trace import Tracer
from tests.service.arrays.interpretation import interpret
from tests.service.arrays.programs import WIRE, inputs, numbers, same_bits, segments
from tests.support.host_cuda import HostKernel

NAMES = ("a", "b", "c")


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Straight-line programs over three arrays, in which any value may be stored anywhere."""
    t = Tracer()
    values: list[Any] = [t.load(name) for name in NAMES]
    others: list[Any] = [
        t.scalar("s"),
        t.segment_scalar("z"),
        *draw(st.lists(st.floats(width=32), max_size=2)),
    ]
    for _ in range(draw(st.integers(1, 12))):
        x, y, z = (draw(st.sampled_from(values)) for _ in range(3))
        w: Any = draw(st.sampled_from([y, *others]))
        makers: list[Any] = [
            lambda x=x, w=w: x + w, lambda x=x, w=w: w - x, lambda x=x, w=w: x * w, lambda x=x, w=w: x / w,
            lambda x=x: -x, lambda x=x: t.sqrt(x), lambda x=x: t.abs(x), lambda x=x: t.sign(x),
            lambda x=x, w=w: t.maximum(x, w), lambda x=x, w=w: t.minimum(w, x),
            lambda x=x, y=y, z=z, w=w: t.where(x < w, y, z), lambda x=x, y=y, w=w: t.where(y >= x, w, x),
        ]  # fmt: skip
        values.append(draw(st.sampled_from(makers))())
    for name in draw(st.lists(st.sampled_from([*NAMES, "d", "e"]), min_size=1, max_size=5, unique=True)):
        t.store(name, draw(st.sampled_from([*values, *others])))
    for kind in draw(st.lists(st.sampled_from(list(ReductionKind)), max_size=2, unique=True)):
        t.reduce(kind.value, kind, draw(st.sampled_from(values)))
    return t.build_program()


def agree(executors: list[Any], program: Program, dtype: Any, wires: list[Any], size: int) -> None:
    storage = dict(zip(program.arrays, wires, strict=False))
    arrays = inputs(program, dtype, storage, size)
    cut = segments(program, size)
    after, sums = interpret(program, dtype, arrays, numbers(program), cut)
    for compile_ in executors:
        own = {name: array.copy() for name, array in arrays.items()}
        actual = compile_(program, dtype, storage)(own, numbers(program), cut)
        assert all(same_bits(own[name], after[name]) for name in program.arrays), compile_
        assert all(same_bits(actual[name], sums[name]) for name in sums), compile_


ANY = {
    "program": programs(),
    "dtype": st.sampled_from([FLOAT32, FLOAT64]),
    "wires": st.lists(st.sampled_from(WIRE), min_size=5, max_size=5),
    "size": st.sampled_from([1, 65, 1500]),
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(**ANY)
def test_numpy(program: Program, dtype: Any, wires: list[Any], size: int) -> None:
    if program.arrays:
        agree([NumpyBackend(1).compile], program, dtype, wires, size)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(**ANY)
def test_compiled(program: Program, dtype: Any, wires: list[Any], size: int) -> None:
    if program.arrays:
        agree([NUMBA.compile, HostKernel], program, dtype, wires, size)


NUMBA = NumbaBackend(1)
