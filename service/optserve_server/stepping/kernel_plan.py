"""Kernel plan: kernels bound to a staging and a session's arrays, made once for many equal steps."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.kernel import NONE, BoundKernel, Pass, Segments, SingleSegmentRun
from optserve_server.arrays.program import Program
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.groupwise import GroupwiseRule
from optserve_server.optimizers.tensorwise import TensorwiseRule
from optserve_server.programs.step_programs import GRADIENT, REPLY
from optserve_server.spec.session_spec import ClipByGlobalNorm, ClipByTensorNorm, NonFinitePolicy
from optserve_server.state.partition import IncrementalPass, Partition
from optserve_server.state.read_parameters import Point, Reply
from optserve_server.state.session_state import SessionState
from optserve_server.state.staging import Run, Staging, split_by_counter

Numbers = Mapping[str, float]
Totals = Mapping[str, Any]
"""A float, or an array of float64 with one element for each segment, by the reduction's name."""
NumbersOfTensors = Mapping[str, npt.NDArray[np.float64]]
Text = Callable[..., Program]
"""A method of `StepPrograms`, such as ``StepPrograms.trace_apply``."""

Shape = tuple[object, ...]
"""The arguments of a `Text`."""


class RunKernels:
    """Kernels of a run, bound to the range of the partition that it covers.

    On the host, and for a staging that comes again, its kernels are bound to every array, the
    gradient's own included, so that a call is cheap. A gradient that comes once, rows, and
    arrays that have to be copied to another device first are passed with each call.

    Args:
        partition: the partition.
        run: the gradient.
        counter: index of the counter of the run's tensors in `SessionScalars.counters`.

    Attributes:
        direct: whether its kernels are bound to every array.
    """

    def __init__(self, partition: Partition, run: Run, counter: int) -> None:
        self.partition, self.run, self.rule = partition, run, partition.programs.rule
        self.group, self.counter = partition.group, counter
        self.direct = False
        self._bounds: dict[tuple[object, ...], BoundKernel] = {}
        self._runs: dict[tuple[object, ...], SingleSegmentRun] = {}

    def enable_binding(self) -> None:
        """Lets kernels be bound to the gradient's bytes, if they are where the kernels run."""
        run = self.run
        self.direct = run.rows is None and run.get_device_copy(self.partition.backend).array is run.staged

    def run_program(
        self,
        text: Text,
        shape: Shape,
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
            of_tensors: its numbers of tensors; None if the run is one segment.
            reply: where values go that are sent.
            sent: whether an earlier pass over this gradient has brought it to the device.

        Returns:
            Its sums: numbers if the run is one segment and bound, else one for each segment.
        """
        if self.direct:
            if of_tensors is not None:
                return self._get_bound(text, shape, True, reply)(scalars, NONE, of_tensors)
            run = self._runs.get((text, shape, reply))
            if run is None:
                run = self._get_bound(text, shape, False, reply).make_single_segment_run()
                self._runs[text, shape, reply] = run
            return run(scalars)
        program = text(self.partition.programs, *shape)
        cut = None if of_tensors is None else Segments(self.run.tensor_ends, of_tensors)
        return self.partition.run_program(program, self.run, scalars, cut, reply=reply, sent=sent)

    def start_pass(
        self,
        text: Text,
        shape: Shape,
        scalars: Numbers,
        of_tensors: NumbersOfTensors | None = None,
        reply: Run | None = None,
        sent: bool = True,
    ) -> Pass | IncrementalPass:
        """Like `run_program`, in pieces, if the run is of whole tensors."""
        if self.direct:
            return self._get_bound(text, shape, of_tensors is not None, reply).start_pass(
                scalars, NONE, of_tensors or NONE
            )
        program = text(self.partition.programs, *shape)
        ends = None if of_tensors is None else self.run.tensor_ends
        return self.partition.start_pass(
            program, self.run, scalars, ends, of_tensors or NONE, reply=reply, sent=sent
        )

    def _get_bound(self, text: Text, shape: Shape, by_tensor: bool, reply: Run | None) -> BoundKernel:
        # A reply's run is kept with its kernel, so it is compared by identity.
        key = (text, shape, by_tensor, reply)
        bound = self._bounds.get(key)
        if bound is None:
            bound = self._bounds[key] = self._bind_program(
                text(self.partition.programs, *shape), by_tensor, reply
            )
        return bound

    def _bind_program(self, program: Program, by_tensor: bool, reply: Run | None) -> BoundKernel:
        partition, run = self.partition, self.run
        place = slice(run.start - partition.start, run.stop - partition.start)
        given = {GRADIENT: run.staged} | ({} if reply is None else {REPLY: reply.staged})
        own = {name: partition.arrays[name][place] for name in program.arrays if name not in given}
        storage = {name: array.dtype for name, array in given.items()}
        kernel = partition.backend.compile(program, partition.dtype, storage)
        return kernel.bind({**own, **given}, run.stop - run.start, run.tensor_ends if by_tensor else None)


class KernelPlan:
    """Common part of the steps on one staging: kernels, and settings of the specification.

    Args:
        session: the session.
        staging: the gradient.

    Attributes:
        places: one for each run, cut where tensors have counted different steps; none for tensors of
            frozen groups.
        covered: names of the tensors that the gradient covers; None for all that are not frozen.
        groupwise: whether any group has a rule that needs sums over all of it.
        tensorwise: whether any group has a rule that needs norms of each tensor.
        plain: whether all runs are of complete tensors and no rule looks beyond an element.
        accumulates: whether a step is taken on several gradients.
        clips: whether gradients are clipped.
        clips_by_norm: whether they are clipped by a norm, of each tensor or of all.
        clips_by_tensor: whether they are clipped by the norm of each tensor.
        penalizes: whether there is regularization.
        measures_early: whether a gradient can be measured while it arrives.
        needs_no_measurement: whether a complete step happens whatever its gradient holds, and no
            number of it depends on that.
    """

    places: tuple[RunKernels, ...]

    def __init__(self, session: SessionState, staging: Staging) -> None:
        arenas, gradient = session.arenas, session.spec.gradient
        self._partitions, self._spec = arenas.partitions, session.spec
        self._is_bound = False
        frozen = session.spec.frozen_groups
        self._numbers, self._version = session.scalars, session.scalars.version
        self.places = tuple(
            RunKernels(arenas.find_partition(run), run, counter)
            for whole in staging.runs
            if whole.tensors[0].entry.group not in frozen
            for counter, run in split_by_counter(session.scalars, whole)
        )
        given = frozenset(t.entry.name for t in staging.tensors if t.entry.group not in frozen)
        needed = sum(entry.group not in frozen for entry in session.layout.entries)
        self.covered = None if len(given) == needed else given
        self.groupwise = any(isinstance(place.rule, GroupwiseRule) for place in self.places)
        self.tensorwise = any(isinstance(place.rule, TensorwiseRule) for place in self.places)
        has_rows = any(place.run.rows is not None for place in self.places)
        elementwise = all(isinstance(place.rule, ElementwiseRule) for place in self.places)
        self.plain = elementwise and not (self.groupwise or self.tensorwise or has_rows)
        self.accumulates = gradient.accumulation_steps > 1
        self.clips = gradient.clip is not None
        self.clips_by_tensor = isinstance(gradient.clip, ClipByTensorNorm)
        self.clips_by_norm = self.clips_by_tensor or isinstance(gradient.clip, ClipByGlobalNorm)
        shapes = [place.partition.programs.gradient for place in self.places]
        self.penalizes = any(shape.l1 or shape.l2 for shape in shapes)
        self.measures_early = not (self.penalizes or self.accumulates or has_rows)
        self.needs_no_measurement = (
            gradient.non_finite is NonFinitePolicy.ALLOW and not self.clips_by_norm and self.plain
        )
        # The staging keeps the plan: to keep it in turn would leave both to the garbage collector.
        self._asked: tuple[weakref.ref[Staging], Point] | None = None
        self._writes = False

    @classmethod
    def get_or_make(cls, session: SessionState, staging: Staging) -> KernelPlan:
        """The plan that the staging keeps, or a new one if the session was changed since."""
        plan = staging.plan
        if not isinstance(plan, KernelPlan) or not plan.is_current_for(session, staging):
            plan = staging.plan = cls(session, staging)
        elif not plan._is_bound:
            # The staging is used again, so binding its kernels to its bytes pays.
            plan._is_bound = True
            for place in plan.places:
                place.enable_binding()
        return plan

    def is_current_for(self, session: SessionState, staging: Staging) -> bool:
        """Whether it is of this staging, and the session is what it was when the plan was made."""
        return (
            staging.plan is self
            and self._spec is session.spec
            and self._partitions is session.arenas.partitions
            and self._numbers is session.scalars
            and self._version == session.scalars.version
        )

    def can_write_reply(self, reply: Reply) -> bool:
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
