"""A small session to step, and a backend that counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Program
from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.sgd import SGD
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import ParameterInit, Store
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.state.staging import NamedArray
from optserve_server.state.step_result import StepOptions, StepResult

Arrays = Mapping[str, npt.NDArray[Any]]


class Watched:
    """A kernel or bound kernel that reports each call before it is made."""

    def __init__(self, watched: Any, told: Callable[[], None]) -> None:
        self._watched, self._told = watched, told

    def bind(self, *arguments: Any) -> Any:
        return Watched(self._watched.bind(*arguments), self._told)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self._told()
        return self._watched(*arguments, **named)

    def make_single_segment_run(self) -> Any:
        return Watched(self._watched.make_single_segment_run(), self._told)

    def start_pass(self, *arguments: Any) -> Any:
        self._told()
        return self._watched.start_pass(*arguments)


class CountingBackend(NumpyBackend):
    """Counts kernel calls, apart for programs that write and that only read."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.reads = 0

    def compile(self, program: Program, *arguments: Any, **named: Any) -> Any:
        return Watched(super().compile(program, *arguments, **named), lambda: self.on_call(program))

    def on_call(self, program: Program) -> None:
        self.writes += bool(program.stores)
        self.reads += not program.stores


def spec_of(rule: Rule | None = None, **fields: Any) -> SessionSpec:
    """A specification around a rule; SGD at 0.1 by default."""
    return SessionSpec(optimizer=Chosen(rule or SGD(learning_rate=0.1)), **fields)


def session_of(spec: SessionSpec, parameters: Arrays, store: Store | None = None) -> Session:
    """A session that starts from ``parameters``."""
    store = Store(NumpyBackend()) if store is None else store
    inits = [ParameterInit(name, a.dtype, a.shape, a) for name, a in parameters.items()]
    return store.create("", spec, inits)


def step(session: Session, gradients: Arrays, **options: Any) -> StepResult:
    """One step on shaped gradients."""
    staging = session.stage_arrays([NamedArray(name, a) for name, a in gradients.items()])
    return session.take_step(staging, StepOptions(**options))


def parameters(session: Session, **reading: Any) -> dict[str, npt.NDArray[Any]]:
    """What the session holds, by name."""
    values = session.read_values(**reading)
    return {t.entry.name: values.array(i).copy() for i, t in enumerate(values.tensors)}
