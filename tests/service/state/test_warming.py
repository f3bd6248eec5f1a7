"""Kernels are ready when a session is: no step of it waits for a compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Program
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.lamb import LAMB
from optserve_server.optimizers.muon import Muon
from optserve_server.optimizers.prodigy import Prodigy
from optserve_server.programs.step_programs import GRADIENT
from optserve_server.sessions.store import Store
from optserve_server.spec.session_spec import ClipByTensorNorm, GradientSpec
from tests.service.sessions.support import session_of, spec_of, step

START = {"a": np.ones(3, np.float32), "b": np.ones((2, 2))}
GUARDS = {
    "bare": GradientSpec(),
    "clipped": GradientSpec(clip=ClipByTensorNorm(max_norm=1.0)),
    "accumulated": GradientSpec(accumulation_steps=2, l2=0.1),
}


class Compiling(NumpyBackend):
    """Keeps what it was asked to compile."""

    def __init__(self) -> None:
        super().__init__(1)
        self.asked: set[object] = set()

    def compile(self, program: Program, dtype: Any, storage: Any, *, keep: bool = True) -> Any:
        dtypes = tuple(np.dtype(storage.get(name, dtype)) for name in program.arrays)
        self.asked.add((program, np.dtype(dtype), dtypes))
        return super().compile(program, dtype, storage, keep=keep)


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("rule", [Adam(), LAMB(), Prodigy(), Muon()], ids=lambda rule: rule.name)
def test_steps_compile_nothing(rule: Rule, guard: str) -> None:
    backend = Compiling()
    session = session_of(spec_of(Adam(), gradient=GUARDS[guard]), START, Store(backend))
    session.update_spec(spec_of(rule, gradient=GUARDS[guard]))
    ready = set(backend.asked)
    assert ready
    for _ in range(GUARDS[guard].accumulation_steps):
        step(session, START)
    assert session.step == 1
    assert backend.asked == ready


def test_replies_and_wire_dtypes_are_made_ready_on_request() -> None:
    backend = Compiling()
    session = session_of(spec_of(Adam()), START, Store(backend))
    (partition,) = (p for p in session.arenas.partitions.values() if p.dtype == np.float32)
    wire = np.dtype(np.float16)
    program = partition.programs.trace_apply(False, GRADIENT)
    dtypes = tuple(wire if name == GRADIENT else partition.dtype for name in program.arrays)
    assert (program, partition.dtype, dtypes) not in backend.asked
    partition.compile_kernels(wire, GRADIENT)
    assert (program, partition.dtype, dtypes) in backend.asked


def test_what_cannot_be_compiled_is_told_by_the_step() -> None:
    class Broken(NumpyBackend):
        def compile(self, *arguments: Any, **named: Any) -> Any:
            raise ZeroDivisionError

    session = session_of(spec_of(Adam()), START, Store(Broken()))
    with pytest.raises(ZeroDivisionError):
        step(session, START)
