"""What is known of a gradient before it is applied: norms, non-finite elements, penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Segments
from optserve_server.errors import DomainError, Reason
from optserve_server.sessions.arena import Arenas
from optserve_server.sessions.guards import StepPrograms
from optserve_server.sessions.spec import ClipByGlobalNorm, ClipByTensorNorm, ClipByValue, GradientSpec
from optserve_server.sessions.staging import Run, Staging

Sums = dict[str, npt.NDArray[np.float64]]


@dataclass
class Measurement:
    """Sums over a gradient's runs, one number per tensor where tensors count, else per run."""

    gradient: GradientSpec
    sums: list[Sums] = field(default_factory=list)

    def total(self, name: str) -> float:
        """A sum over the whole gradient; 0 where it was not asked for."""
        return float(sum(sums[name].sum() for sums in self.sums if name in sums))

    @property
    def norm(self) -> float:
        """The joint norm before clipping."""
        return math.sqrt(self.total("squares"))

    @property
    def non_finite_count(self) -> int:
        """NaN and infinite elements among those received."""
        return int(self.total("non_finite"))

    @property
    def penalty(self) -> float:
        """l1*sum(|p|) + l2*sum(p^2)/2."""
        l1, l2 = self.gradient.l1, self.gradient.l2
        return l1 * self.total("magnitudes") + l2 * self.total("parameter_squares") / 2

    def factors(self, position: int) -> npt.NDArray[np.float64]:
        """What clipping by norm multiplies the run at ``position`` by: per tensor, or once."""
        clip = self.gradient.clip
        if isinstance(clip, ClipByTensorNorm):
            norms = np.sqrt(self.sums[position]["squares"])
            return np.array([clip.factor(float(norm)) for norm in norms])
        if isinstance(clip, ClipByGlobalNorm):
            return np.array([clip.factor(self.norm)])
        return np.ones(1)

    @property
    def clipped_norm(self) -> float:
        """The joint norm after clipping."""
        if isinstance(self.gradient.clip, ClipByValue):
            return math.sqrt(self.total("clipped_squares"))
        parts = [s["squares"] * self.factors(position) ** 2 for position, s in enumerate(self.sums)]
        return math.sqrt(float(sum(part.sum() for part in parts)))


def measure(
    arenas: Arenas,
    gradient: GradientSpec,
    runs: Sequence[Run],
    scalars: Mapping[str, float],
    *,
    micro_batch: bool,
    by_tensor: bool,
) -> Measurement:
    """Reads a gradient once and changes nothing.

    Args:
        arenas: the session's arrays.
        gradient: the session's gradient preprocessing.
        runs: the gradient.
        scalars: the guards' numbers.
        micro_batch: whether the gradient is only accumulated.
        by_tensor: whether sums are wanted for each tensor rather than for each run.
    """
    write = StepPrograms.measure_micro_batch if micro_batch else StepPrograms.measure
    scaled = "guard_loss_scale" in scalars
    measurement = Measurement(gradient)
    for run in runs:
        partition = arenas.partition(run)
        program = write(partition.programs, scaled)
        segments = Segments(run.ends) if by_tensor else None
        sums = partition.take(program, run, scalars, segments)
        measurement.sums.append(sums)
    return measurement


def norms_by_tensor(runs: Sequence[Run], measurement: Measurement) -> tuple[tuple[str, float], ...]:
    """The norm of each tensor's gradient before clipping, from a measurement by tensor."""
    return tuple(
        (tensor.entry.name, math.sqrt(float(square)))
        for run, sums in zip(runs, measurement.sums, strict=True)
        for tensor, square in zip(run.tensors, sums["squares"], strict=True)
    )


def refuse_non_finite(staging: Staging, count: int) -> DomainError:
    """The error that names the first tensor with a NaN or infinity."""
    for tensor in staging.tensors:
        mine = int(np.count_nonzero(~np.isfinite(staging.array(tensor))))
        if mine:
            name = tensor.entry.name
            return DomainError(
                Reason.NON_FINITE_GRADIENT,
                f"the gradient of {name!r} holds {mine} elements that are not finite",
                field=tensor.field,
                metadata={"tensor": name, "count": count},
            )
    raise AssertionError("the count and the elements disagree")
