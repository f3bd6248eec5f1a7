"""Arenas of a session: parameters, one arena per dtype, and optimizer state."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.kernel import Array
from optserve_server.optimizers.matrix import MatrixRule
from optserve_server.programs.step_programs import (
    AVERAGE,
    PARAMETER,
    StepPrograms,
)
from optserve_server.state.layout import Layout
from optserve_server.state.partition import Partition
from optserve_server.state.staging import Run
from optserve_server.state.state_transfer import StateTransfer

Partitions: TypeAlias = dict[tuple[np.dtype[Any], str], Partition]
"""A session's partitions by dtype and group."""


class Arenas:
    """All of a session's arrays.

    Args:
        layout: the tensors.
        programs: the programs of each group, by name.
        backend: where the arrays live.
    """

    def __init__(self, layout: Layout, programs: Mapping[str, StepPrograms], backend: Backend) -> None:
        self.layout = layout
        self.backend = backend
        self.parameters = {
            dtype: backend.full(size, 0.0, dtype) for dtype, size in layout.arena_sizes.items()
        }
        self.partitions: Partitions = {}
        for entry in layout.entries:
            key = (entry.dtype, entry.group)
            if key not in self.partitions:
                own = _specialize_programs(programs[entry.group], entry.dtype)
                self.partitions[key] = Partition(
                    backend, entry.dtype, entry.group, entry.start, entry.stop, own
                )
            self.partitions[key].stop = entry.stop
            self.partitions[key].tensors.append(entry)
        for partition in self.partitions.values():
            partition.allocate(self.parameters[partition.dtype])
            partition.compile_kernels()

    def replace_programs(
        self, programs: Mapping[str, StepPrograms]
    ) -> tuple[Partitions, list[StateTransfer]]:
        """Returns the partitions under other programs, and the transfer of each group's state."""
        changed = {
            key: p.replace_programs(_specialize_programs(programs[p.group], p.dtype))
            for key, p in self.partitions.items()
        }
        for partition, _ in changed.values():
            partition.compile_kernels()
        transfers = {partition.group: transfer for partition, transfer in changed.values()}
        return {key: partition for key, (partition, _) in changed.items()}, list(transfers.values())

    def move_to(self, parameters: Mapping[np.dtype[Any], Array]) -> None:
        """Keeps the parameters in other arrays from now on, one for each arena."""
        for dtype, array in parameters.items():
            array[...] = self.parameters[dtype]
        self.parameters = dict(parameters)
        for partition in self.partitions.values():
            partition.move_to(parameters[partition.dtype])
        self.partitions = dict(self.partitions)  # what was bound to the old arrays no longer fits

    def find_partition(self, run: Run) -> Partition:
        """The partition that a run lies in."""
        entry = run.tensors[0].entry
        return self.partitions[entry.dtype, entry.group]

    def find_untouched(self, runs: Sequence[Run]) -> Iterator[tuple[Partition, int, int]]:
        """Yields the ranges of each partition that no run covers."""
        for partition in self.partitions.values():
            mine = sorted((run.start, run.stop) for run in runs if self.find_partition(run) is partition)
            position = partition.start
            for start, stop in [*mine, (partition.stop, partition.stop)]:
                if position < start:
                    yield partition, position, start
                position = stop

    def overwrite_parameters(self, run: Run, *, reset_state: bool, restart_average: bool) -> None:
        """Overwrites a run's parameters, and its state where asked to."""
        partition = self.find_partition(run)
        place = slice(run.start - partition.start, run.stop - partition.start)
        with np.errstate(over="ignore"):  # what a narrower type cannot hold becomes infinite
            values = self.backend.from_host(run.staged.astype(partition.dtype, copy=False))
        partition.arrays[PARAMETER][place] = values
        for name, value in partition.initial_state().items():
            if name == AVERAGE and (reset_state or restart_average):
                partition.arrays[name][place] = values
            elif name != AVERAGE and reset_state:
                partition.arrays[name][place] = value
        for tensor in run.tensors if reset_state else ():
            partition.restart_matrices(tensor.entry)


def _specialize_programs(programs: StepPrograms, dtype: np.dtype[Any]) -> StepPrograms:
    """A group's programs for its tensors of one dtype."""
    return dataclasses.replace(programs, wide=dtype == np.float64)


def resident_bytes(layout: Layout, programs: Mapping[str, StepPrograms]) -> int:
    """Bytes that a session's parameters and state take, known before they are taken."""
    total = 0
    for entry in layout.entries:
        shape = programs[entry.group]
        extra = (shape.gradient.accumulation_steps > 1) + shape.averages + isinstance(shape.rule, MatrixRule)
        total += entry.dtype.itemsize * (entry.size * (1 + extra) + shape.rule.state_elements(entry.shape))
    return total
