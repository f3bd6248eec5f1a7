"""The step of a `MatrixRule`: tensor by tensor, on gradients that were prepared in one pass."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optserve_server.optimizers.matrix import MatrixRule
from optserve_server.programs.step_programs import PARAMETER, PREPARED
from optserve_server.state.partition import Partition
from optserve_server.state.staging import Run


def step_matrices(partition: Partition, run: Run, scalars: Mapping[str, float]) -> None:
    """Steps every tensor of a run.

    Args:
        partition: where the run lies.
        run: the tensors; their gradients wait in `PREPARED`.
        scalars: the step's numbers.
    """
    rule = partition.programs.rule
    assert isinstance(rule, MatrixRule)
    kept = scalars["guard_decay"] if partition.programs.decays else 1.0
    for tensor in run.tensors:
        entry = tensor.entry
        place = slice(entry.start - partition.start, entry.stop - partition.start)
        p = partition.arrays[PARAMETER][place].reshape(entry.shape)
        g = partition.arrays[PREPARED][place].reshape(entry.shape)
        slots = partition.matrices[entry.name]
        with np.errstate(all="ignore"):  # what overflows becomes infinite, as in every kernel
            p[...], after = rule.step(partition.backend.array_module, p, g, slots, scalars, kept)
        for name, value in after.items():
            slots[name][...] = value
    if partition.programs.averages:
        partition.run(partition.programs.average_program, run.start, run.stop, scalars)
