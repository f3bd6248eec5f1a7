"""One group's range of an arena: its parameters, its state, and programs run over them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Backend, DeviceCopy
from optserve_server.arrays.kernel import NONE, Array, BoundKernel, Pass, Segments, Sums
from optserve_server.arrays.program import Program
from optserve_server.optimizers.matrix import MatrixRule
from optserve_server.programs.step_programs import (
    ACCUMULATED,
    AVERAGE,
    GRADIENT,
    PARAMETER,
    PREPARED,
    REPLY,
    StepPrograms,
)
from optserve_server.state.layout import TensorEntry
from optserve_server.state.staging import Run
from optserve_server.state.state_transfer import StateTransfer

BOUNDS = 16
"""Bound kernels that a partition keeps."""


@dataclass
class Partition:
    """One group's range of one arena, with its state.

    Attributes:
        dtype: element type.
        group: name of the group.
        start: first element in the arena.
        stop: end in the arena.
        programs: what runs over it.
        tensors: its tensors.
        arrays: its parameters (a view of the arena) and state by array name.
        matrices: the state of a `MatrixRule`, by tensor and slot.
    """

    backend: Backend
    dtype: np.dtype[Any]
    group: str
    start: int
    stop: int
    programs: StepPrograms
    tensors: list[TensorEntry] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    matrices: dict[str, dict[str, Array]] = field(default_factory=dict)
    _bounds: dict[object, BoundKernel] = field(default_factory=dict, init=False, repr=False)

    def allocate(self, parameters: Array) -> None:
        """Takes its range of an arena and makes its state."""
        size = self.stop - self.start
        self.arrays[PARAMETER] = parameters[self.start : self.stop]
        for slot, value in self.initial_state().items():
            self.arrays[slot] = self.backend.full(size, value, self.dtype)
        for entry in self.tensors:
            self.restart_matrices(entry)

    def move_to(self, parameters: Array) -> None:
        """Takes its range of another arena, which holds the same values."""
        self.arrays[PARAMETER] = parameters[self.start : self.stop]
        self._bounds.clear()

    def compile_kernels(self, wire: np.dtype[Any] | None = None, reply: str = "") -> None:
        """Makes the kernels of its steps ready, so that no step waits for a compiler.

        Kernels that other sessions have, or an earlier process left on disk, cost little.

        Args:
            wire: the gradient's dtype; its own if None.
            reply: where the new parameters go as well; see `StepPrograms.trace_apply`.
        """
        programs = list(self.programs.trace_common_programs())
        if reply:
            programs = [self.programs.trace_measure(False), self.programs.trace_apply(False, reply)]
        storage = dict.fromkeys((GRADIENT, REPLY), wire or self.dtype)
        with contextlib.suppress(Exception):  # the step that needs it says what is wrong
            for program in programs:
                self.backend.compile(program, self.dtype, storage)

    def restart_matrices(self, entry: TensorEntry) -> None:
        """Initializes a tensor's state under a `MatrixRule` again."""
        if isinstance(self.programs.rule, MatrixRule):
            self.matrices[entry.name] = {
                slot: self.backend.full(math.prod(shape), 0.0, self.dtype).reshape(shape)
                for slot, shape in self.programs.rule.tensor_slots(entry.shape).items()
            }

    def replace_programs(self, programs: StepPrograms) -> tuple[Partition, StateTransfer]:
        """Returns the partition under other programs, with common arrays shared, and the state's transfer."""
        other = replace(self, programs=programs, arrays={PARAMETER: self.arrays[PARAMETER]}, matrices={})
        transfer = StateTransfer.between(self.group, self.programs, programs)
        for name, value in other.initial_state().items():
            if name in transfer.carried or (name == AVERAGE and AVERAGE in self.arrays):
                other.arrays[name] = self.arrays[name]
                continue
            other.arrays[name] = self.backend.full(self.stop - self.start, value, self.dtype)
            if name == AVERAGE:
                other.arrays[name][:] = self.arrays[PARAMETER]
        for entry in self.tensors:
            other.restart_matrices(entry)
        if transfer.carried and other.matrices:
            other.matrices = self.matrices
        return other, transfer

    def initial_state(self) -> dict[str, float]:
        """Every state array's first value."""
        state = dict(self.programs.rule.slots())
        if self.programs.gradient.accumulation_steps > 1:
            state[ACCUMULATED] = 0.0
        if self.programs.averages:
            state[AVERAGE] = 0.0
        if isinstance(self.programs.rule, MatrixRule):
            state[PREPARED] = 0.0
        return state

    def run(
        self,
        program: Program,
        start: int,
        stop: int,
        scalars: Mapping[str, float],
        *,
        given: Mapping[str, Array] = NONE,
        segments: Segments | None = None,
    ) -> Sums:
        """Runs a program over the arena's elements from ``start`` to ``stop``.

        Args:
            program: the program.
            start: first element, counted in the arena.
            stop: end, counted in the arena.
            scalars: its numbers.
            given: arrays that are not the partition's own, or take the place of such.
            segments: the cut into tensors.
        """
        bound = self.bind_kernel(program, start, stop, given, None if segments is None else segments.ends)
        return bound(scalars, given, NONE if segments is None else segments.scalars)

    def run_program(
        self,
        program: Program,
        run: Run,
        scalars: Mapping[str, float],
        segments: Segments | None = None,
        *,
        sent: bool = False,
        reply: Run | None = None,
    ) -> Sums:
        """Runs a program over a gradient's run: over some rows alone where it has no others.

        Args:
            program: the program.
            run: the gradient.
            scalars: its numbers.
            segments: the cut into tensors.
            sent: whether an earlier pass sent this very gradient to the device.
            reply: where the program puts `REPLY`.
        """
        if run.rows is not None:
            return self._run_on_rows(program, run, scalars, segments)
        gradient, answer, given = self._prepare_inputs(program, run, reply)
        if not sent:
            gradient.copy_to_device(0, run.staged.size)
        sums = self.run(program, run.start, run.stop, scalars, given=given, segments=segments)
        if answer is not None:
            answer.copy_to_host(0, run.staged.size)
            answer.wait()
        return sums

    def start_pass(
        self,
        program: Program,
        run: Run,
        scalars: Mapping[str, float],
        ends: npt.NDArray[np.int64] | None = None,
        of_tensors: Mapping[str, npt.NDArray[np.float64]] = NONE,
        *,
        sent: bool = False,
        reply: Run | None = None,
    ) -> IncrementalPass:
        """What `run_program` does, in pieces: as the gradient arrives, or as its answer is sent.

        Several may be under way at once where the program stores nothing that another one
        needs. Whole tensors alone, not rows.

        Args:
            program: the program. One that sums is best run while elements arrive, one with a
                reply while they are sent.
            run: the gradient.
            scalars: its numbers.
            ends: where tensors end, if each has its own numbers.
            of_tensors: the numbers of each tensor.
            sent: whether an earlier pass sent this very gradient to the device.
            reply: where the program puts `REPLY`; one that stores to `GRADIENT` needs none.
        """
        gradient, answer, given = self._prepare_inputs(program, run, reply)
        bound = self.bind_kernel(program, run.start, run.stop, given, ends)
        under_way = bound.start_pass(scalars, given, of_tensors)
        return IncrementalPass(under_way, run.staged.size, None if sent else gradient, answer)

    def _prepare_inputs(
        self, program: Program, run: Run, reply: Run | None
    ) -> tuple[DeviceCopy, DeviceCopy | None, dict[str, Array]]:
        """The gradient's place, the answer's place if there is one, and both as kernels take them."""
        gradient = run.get_device_copy(self.backend)
        if reply is not None:
            answer = reply.get_device_copy(self.backend)
            return gradient, answer, {GRADIENT: gradient.array, REPLY: answer.array}
        in_place = any(name == GRADIENT for name, _ in program.stores)
        return gradient, gradient if in_place else None, {GRADIENT: gradient.array}

    def bind_kernel(
        self,
        program: Program,
        start: int,
        stop: int,
        given: Mapping[str, Array],
        ends: npt.NDArray[np.int64] | None = None,
    ) -> BoundKernel:
        """A program's kernel, bound to a range of the partition's own arrays; those used last are kept.

        Args:
            program: the program.
            start: first element, counted in the arena.
            stop: end, counted in the arena.
            given: the arrays that come with each call.
            ends: where tensors end, if each has its own numbers.
        """
        types = tuple((name, array.dtype) for name, array in given.items())
        key = (program, start, stop, types, None if ends is None else ends.tobytes())
        bound = self._bounds.pop(key, None)
        if bound is None:
            place = slice(start - self.start, stop - self.start)
            own = {name: self.arrays[name][place] for name in program.arrays if name not in given}
            size = len(next(iter(given.values()))) if given else stop - start
            bound = self.backend.compile(program, self.dtype, dict(types)).bind(own, size, ends)
        self._bounds[key] = bound
        if len(self._bounds) > BOUNDS:  # copied: a gradient may arrive beside a step in a thread
            self._bounds.pop(next(iter(tuple(self._bounds))), None)
        return bound

    def _run_on_rows(
        self, program: Program, run: Run, scalars: Mapping[str, float], segments: Segments | None
    ) -> Sums:
        """Runs a program over some rows, gathered and put back."""
        assert run.rows is not None
        rows = self.backend.from_host(run.rows)
        count = run.tensors[0].entry.shape[0]
        whole = {
            name: self.arrays[name][run.start - self.start : run.stop - self.start].reshape(count, -1)
            for name in program.arrays
            if name != GRADIENT
        }
        some = {name: array[rows].reshape(-1) for name, array in whole.items()}
        some[GRADIENT] = self.backend.from_host(run.staged)
        kernel = self.backend.compile(program, self.dtype, {GRADIENT: run.staged.dtype})
        sums = kernel(some, scalars, segments)
        for name, _ in program.stores:
            whole[name][rows] = some[name].reshape(rows.size, -1)
        return sums


class IncrementalPass:
    """Incremental execution of a program over a run.

    Args:
        under_way: the kernel's pass.
        size: how many elements there are.
        sends: what is to reach the device before it is computed with.
        fetches: what is copied from the device once it is computed.
    """

    def __init__(
        self, under_way: Pass, size: int, sends: DeviceCopy | None, fetches: DeviceCopy | None
    ) -> None:
        self._pass, self._size, self._sends, self._fetches = under_way, size, sends, fetches
        self._done = 0

    def compute_until(self, stop: int) -> None:
        """Computes the run's elements before ``stop``, which are there; see `Pass`.

        A reply's elements are on the host after `wait`.
        """
        if self._sends is not None:
            self._sends.copy_to_device(self._done, stop)
        self._pass.compute_until(stop)
        if self._fetches is not None:
            self._fetches.copy_to_host(self._done, stop)
        self._done = stop

    def wait(self) -> None:
        """Returns when the reply's elements are on the host, as far as it has advanced."""
        if self._fetches is not None:
            self._fetches.wait()

    def finish(self) -> Sums:
        """Computes what is left; the sums, and the whole reply is on the host."""
        if self._done < self._size:
            self.compute_until(self._size)
        sums = self._pass.finish()
        self.wait()
        return sums
