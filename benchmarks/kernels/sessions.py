"""A session of the server, without its wire."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.kernels.ours import Array
from optserve_server.arrays.backend import Backend
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers.base import Rule
from optserve_server.sessions.store import Limits, ParameterInit, Store
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.state.staging import NamedArray, Staging
from optserve_server.state.step_result import StepOptions
from optserve_server.stepping.step import Step

CHUNK = 1 << 20
"""Bytes of a gradient that arrive at once."""


class SessionStep:
    """A whole step of a session: checks, the pass that measures the gradient, the update.

    The gradient lies in the staging buffer, as it does when its last byte has come. The
    step has no worker, so nothing is hashed to recognise a repeat: peers have no such thing.

    Args:
        rule: the optimizer.
        arrays: the first values, an array for each tensor.
        gradients: an array for each tensor.
        backend: what computes; Numba when None.
        fields: of the `SessionSpec`.
    """

    def __init__(
        self,
        rule: Rule,
        arrays: Sequence[Array],
        gradients: Sequence[Array],
        backend: Backend | None = None,
        **fields: Any,
    ) -> None:
        names = [f"t{i:04d}" for i in range(len(arrays))]
        inits = [ParameterInit(name, a.dtype, a.shape, a) for name, a in zip(names, arrays, strict=True)]
        spec = SessionSpec(optimizer=Chosen(rule), **fields)
        self._session = Store(backend or NumbaBackend(), Limits()).create("", spec, inits)
        named = [NamedArray(name, g) for name, g in zip(names, gradients, strict=True)]
        self._staging = self._session.stage_arrays(named)
        self._values: Staging | None = None

    def __call__(self) -> None:
        """One step."""
        self._session.take_step(self._staging, StepOptions())

    def once_arrived(self, repeats: int) -> float:
        """Seconds of steps whose gradient was measured on arrival, from its last byte on."""
        spent, size = 0.0, self._staging.byte_count
        for _ in range(repeats):
            step = Step(self._session, self._staging, StepOptions())
            for there in range(CHUNK, size, CHUNK):
                step.on_received(there)
            begun = time.perf_counter()
            step.prepare(self._session).commit()
            spent += time.perf_counter() - begun
        return spent

    def read(self) -> None:
        """Copies the parameters into a buffer, the same one each time."""
        self._values = self._values or self._session.allocate_staging(None, None)
        self._session.read_values(into=self._values)

    def parameters(self) -> Array:
        """A copy of the first tensor."""
        return np.array(self._session.read_values().array(0))
