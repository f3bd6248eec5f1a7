"""How the runs of a staging meet a session's arrays, worked out once for many equal steps."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import NONE, Bound, Pass, Segments
from optserve_server.arrays.program import Program
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.groupwise import GroupwiseRule
from optserve_server.optimizers.tensorwise import TensorwiseRule
from optserve_server.sessions.arena import Arenas
from optserve_server.sessions.guards import GRADIENT, REPLY
from optserve_server.sessions.partition import Partition, Piecewise
from optserve_server.sessions.reading import Point, Reply
from optserve_server.sessions.staging import Run, Staging

Numbers = Mapping[str, float]
Totals = Mapping[str, Any]
"""A float, or an array of float64 with one element for each segment, by the reduction's name."""
NumbersOfTensors = Mapping[str, npt.NDArray[np.float64]]
Text = Callable[..., Program]
"""A method of `StepPrograms`, such as ``StepPrograms.apply``."""


class Place:
    """A run, and the range of a partition that it covers.

    On the host, and for a staging that comes again, its kernels are bound to every array, the
    gradient's own included, so that a call is cheap. A gradient that comes once, rows, and
    what has to reach another device first take the partition's way.

    Args:
        partition: the partition.
        run: the gradient.

    Attributes:
        direct: whether its kernels are bound to every array.
    """

    def __init__(self, partition: Partition, run: Run) -> None:
        self.partition, self.run, self.rule = partition, run, partition.programs.rule
        self.direct = False
        self._bounds: dict[tuple[object, ...], Bound] = {}

    def comes_again(self) -> None:
        """Lets kernels be bound to the gradient's bytes."""
        run = self.run
        self.direct = run.rows is None and run.on(self.partition.backend).array is run.staged

    def call(
        self,
        text: Text,
        *shape: object,
        scalars: Numbers,
        of_tensors: NumbersOfTensors | None = None,
        reply: Run | None = None,
        sent: bool = True,
    ) -> Totals:
        """Runs a program over the run.

        Args:
            text: which program.
            shape: arguments of ``text``.
            scalars: its numbers.
            of_tensors: its numbers of tensors; None where the run is one segment.
            reply: where values go that are sent.
            sent: whether an earlier pass over this gradient has brought it to the device.

        Returns:
            Its sums: numbers if the run is one segment and bound, else one for each segment.
        """
        if self.direct:
            bound = self._bound(text, shape, of_tensors is not None, reply)
            return bound.totals(scalars) if of_tensors is None else bound(scalars, NONE, of_tensors)
        program = text(self.partition.programs, *shape)
        cut = None if of_tensors is None else Segments(self.run.ends, of_tensors)
        return self.partition.take(program, self.run, scalars, cut, reply=reply, sent=sent)

    def begin(
        self,
        text: Text,
        *shape: object,
        scalars: Numbers,
        of_tensors: NumbersOfTensors | None = None,
        reply: Run | None = None,
        sent: bool = True,
    ) -> Pass | Piecewise:
        """The same in pieces, where the run is of whole tensors."""
        if self.direct:
            return self._bound(text, shape, of_tensors is not None, reply).begin(
                scalars, NONE, of_tensors or NONE
            )
        program = text(self.partition.programs, *shape)
        ends = None if of_tensors is None else self.run.ends
        return self.partition.begin(
            program, self.run, scalars, ends, of_tensors or NONE, reply=reply, sent=sent
        )

    def _bound(self, text: Text, shape: tuple[object, ...], by_tensor: bool, reply: Run | None) -> Bound:
        # A reply's run is kept with its kernel, so it is compared by identity.
        key = (text, shape, by_tensor, reply)
        bound = self._bounds.get(key)
        if bound is None:
            bound = self._bounds[key] = self._bind(text(self.partition.programs, *shape), by_tensor, reply)
        return bound

    def _bind(self, program: Program, by_tensor: bool, reply: Run | None) -> Bound:
        partition, run = self.partition, self.run
        place = slice(run.start - partition.start, run.stop - partition.start)
        given = {GRADIENT: run.staged} | ({} if reply is None else {REPLY: reply.staged})
        own = {name: partition.arrays[name][place] for name in program.arrays if name not in given}
        storage = {name: array.dtype for name, array in given.items()}
        kernel = partition.backend.compile(program, partition.dtype, storage)
        return kernel.bind({**own, **given}, run.stop - run.start, run.ends if by_tensor else None)


class Plan:
    """The places of a gradient's runs.

    Args:
        arenas: the session's arrays.
        staging: the gradient.

    Attributes:
        places: one for each run.
        groupwise: whether any of them is of a group whose rule looks at all of it.
        plain: whether they are all of whole tensors and no rule looks beyond an element.
    """

    places: tuple[Place, ...]

    def __init__(self, arenas: Arenas, staging: Staging) -> None:
        self._partitions = arenas.partitions
        self._settled = False
        self.places = tuple(Place(arenas.partition(run), run) for run in staging.runs)
        self.groupwise = any(isinstance(place.rule, GroupwiseRule) for place in self.places)
        self.plain = all(
            isinstance(place.rule, ElementwiseRule)
            and not isinstance(place.rule, TensorwiseRule | GroupwiseRule)
            and place.run.rows is None
            for place in self.places
        )
        # The staging keeps the plan: to keep it in turn would leave both to the garbage collector.
        self._asked: tuple[weakref.ref[Staging], Point] | None = None
        self._writes = False

    def fits(self, arenas: Arenas) -> bool:
        """Whether the session has its arrays where the plan was made for them."""
        return self._partitions is arenas.partitions

    @classmethod
    def of(cls, arenas: Arenas, staging: Staging) -> Plan:
        """The plan that the staging keeps, or a new one where the session was changed since."""
        kept = staging.plan
        if not isinstance(kept, Plan) or not kept.fits(arenas):
            kept = staging.plan = cls(arenas, staging)
        elif not kept._settled:
            kept._settled = True
            for place in kept.places:
                place.comes_again()
        return kept

    def writes(self, reply: Reply) -> bool:
        """Whether the pass that updates can write the reply as well."""
        asked = self._asked
        if asked is None or asked[0]() is not reply.staging or asked[1] is not reply.point:
            self._asked, self._writes = (weakref.ref(reply.staging), reply.point), self._can_write(reply)
        return self._writes

    def _can_write(self, reply: Reply) -> bool:
        runs = reply.staging.runs
        if reply.point is Point.LOOKAHEAD or len(runs) != len(self.places):
            return False
        return all(
            isinstance(place.rule, ElementwiseRule)
            and place.run.rows is None
            and run.rows is None
            and (place.run.start, place.run.stop) == (run.start, run.stop)
            for place, run in zip(self.places, runs, strict=True)
        )
