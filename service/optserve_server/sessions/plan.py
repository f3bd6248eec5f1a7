"""How the runs of a staging meet a session's arrays, worked out once for many equal steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import NONE, Array, Bound, Pass, Segments, Sums
from optserve_server.arrays.program import Program
from optserve_server.sessions.arena import Arenas, Partition
from optserve_server.sessions.guards import GRADIENT, PARAMETER, REPLY
from optserve_server.sessions.staging import Run, Staging

Numbers = Mapping[str, float]
NumbersOfTensors = Mapping[str, npt.NDArray[np.float64]]
Text = Callable[..., Program]
"""A method of `StepPrograms`, such as ``StepPrograms.apply``."""


class Place:
    """A run, and the range of a partition that it covers.

    Args:
        partition: the partition.
        run: the gradient.

    Attributes:
        on_host: whether kernels work on the staged bytes themselves.
    """

    def __init__(self, partition: Partition, run: Run) -> None:
        self.partition, self.run = partition, run
        self._bounds: dict[tuple[object, ...], tuple[Bound, object]] = {}
        self.on_host = partition.backend.from_host(run.staged) is run.staged

    def call(
        self,
        text: Text,
        *shape: object,
        scalars: Numbers,
        of_tensors: NumbersOfTensors | None = None,
        reply: npt.NDArray[Any] | None = None,
    ) -> Sums:
        """Runs a program over the run.

        Args:
            text: which program.
            shape: arguments of ``text``.
            scalars: its numbers.
            of_tensors: its numbers of tensors; None where the run is one segment.
            reply: where values go that are sent.
        """
        if self.run.rows is not None:
            cut = None if of_tensors is None else Segments(self.run.ends, of_tensors)
            return self.partition.take(text(self.partition.programs, *shape), self.run, scalars, cut)
        bound = self._bound(text, shape, by_tensor=of_tensors is not None, reply=reply)
        return bound(scalars, self._arrays(), of_tensors or NONE)

    def begin(
        self,
        text: Text,
        *shape: object,
        scalars: Numbers,
        of_tensors: NumbersOfTensors | None = None,
        reply: npt.NDArray[Any] | None = None,
    ) -> Pass:
        """The same as `call` in pieces; of runs of whole tensors."""
        bound = self._bound(text, shape, by_tensor=of_tensors is not None, reply=reply)
        return bound.begin(scalars, self._arrays(), of_tensors or NONE)

    def _arrays(self) -> Mapping[str, Array]:
        if self.on_host:
            return NONE
        return {GRADIENT: self.partition.backend.from_host(self.run.staged)}

    def _bound(
        self, text: Text, shape: tuple[object, ...], *, by_tensor: bool, reply: npt.NDArray[Any] | None
    ) -> Bound:
        key = (text, shape, by_tensor, id(reply))
        known = self._bounds.get(key)
        if known is None:
            program = text(self.partition.programs, *shape)
            # The array is kept beside, so that its identity stays its own.
            known = self._bounds[key] = (self._bind(program, by_tensor=by_tensor, reply=reply), reply)
        return known[0]

    def _bind(self, program: Program, *, by_tensor: bool, reply: npt.NDArray[Any] | None) -> Bound:
        partition, run = self.partition, self.run
        place = slice(run.start - partition.start, run.stop - partition.start)
        arrays = {name: partition.arrays[name][place] for name in program.arrays if name in partition.arrays}
        storage = {GRADIENT: run.staged.dtype}
        if self.on_host:
            arrays[GRADIENT] = run.staged
        if reply is not None:
            arrays[REPLY], storage[REPLY] = reply, reply.dtype
        kernel = partition.backend.compile(program, partition.dtype, storage)
        return kernel.bind(arrays, run.stop - run.start, run.ends if by_tensor else None)


class Plan:
    """The places of a gradient's runs.

    Args:
        arenas: the session's arrays.
        staging: the gradient.

    Attributes:
        places: one for each run.
    """

    places: tuple[Place, ...]

    def __init__(self, arenas: Arenas, staging: Staging) -> None:
        self._partitions = arenas.partitions
        self.places = tuple(Place(arenas.partition(run), run) for run in staging.runs)

    @classmethod
    def of(cls, arenas: Arenas, staging: Staging) -> Plan:
        """The plan that the staging keeps, or a new one where the session was changed since."""
        kept = staging.plan
        if not isinstance(kept, Plan) or kept._partitions is not arenas.partitions:
            kept = staging.plan = cls(arenas, staging)
        return kept
