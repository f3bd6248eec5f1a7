"""Statistics of a gradient before it is applied: norms, non-finite elements, penalty."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.norms import norm_from_sums, segment_norms
from optserve_server.errors import DomainError, Reason
from optserve_server.spec.session_spec import ClipByGlobalNorm, ClipByTensorNorm, ClipByValue, GradientSpec
from optserve_server.state.staging import Run, StagedTensor, Staging

UNCLIPPED = np.ones(1)
"""The factor of a gradient that is not clipped by a norm."""


class GradientStatistics:
    """Sums over a gradient's runs, one number per tensor if norms are by tensor, else per run.

    Args:
        gradient: the session's gradient preprocessing.
        sums: by run; numbers where each run is one segment.

    Attributes:
        norm: the joint norm before clipping.
        non_finite_count: NaN and infinite elements of what the rule would get, before clipping.
    """

    __slots__ = ("_totals", "gradient", "non_finite_count", "norm", "sums")

    def __init__(self, gradient: GradientSpec, sums: Sequence[Mapping[str, Any]] = ()) -> None:
        self.gradient, self.sums = gradient, sums
        totals = self._totals = _total_by_name(sums)
        self.norm = norm_from_sums(totals, "squares")
        self.non_finite_count = int(totals.get("non_finite", 0.0))

    def penalty(self, factors: Sequence[tuple[float, float]]) -> float:
        """l1*sum(|p|) + l2*sum(p^2)/2, with the factors (l1, l2) of each run."""
        alike: dict[tuple[float, float], list[Mapping[str, Any]]] = {}
        for of_run, sums in zip(factors, self.sums, strict=True):
            alike.setdefault(of_run, []).append(sums)
        penalty = 0.0
        for (l1, l2), runs in alike.items():
            totals = _total_by_name(runs)
            length = norm_from_sums(totals, "parameter_squares")
            penalty += l1 * totals.get("magnitudes", 0.0) + l2 * length / 2 * length
        return penalty

    def clip_factors(self, position: int) -> npt.NDArray[np.float64]:
        """What clipping by norm multiplies the run at ``position`` by: per tensor, or once."""
        clip = self.gradient.clip
        if isinstance(clip, ClipByTensorNorm):
            return np.array(
                [
                    clip.scale_factor(length)
                    for length in segment_norms(self.sums[position], "squares").tolist()
                ]
            )
        if isinstance(clip, ClipByGlobalNorm):
            return np.array([clip.scale_factor(self.norm)])
        return UNCLIPPED

    @property
    def clipped_norm(self) -> float:
        """The joint norm after clipping."""
        clip = self.gradient.clip
        if isinstance(clip, ClipByValue):
            return norm_from_sums(self._totals, "clipped_squares")
        if isinstance(clip, ClipByTensorNorm):
            lengths = [segment_norms(sums, "squares").tolist() for sums in self.sums]
            factors = [self.clip_factors(position).tolist() for position in range(len(self.sums))]
            return math.hypot(*map(operator.mul, chain(*lengths), chain(*factors)))
        return self.norm if clip is None else self.norm * clip.scale_factor(self.norm)


def _total_by_name(sums: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
    """Sums of several runs, added up by name."""
    if len(sums) == 1 and isinstance(next(iter(sums[0].values()), 0.0), float):
        return sums[0]
    totals: dict[str, float] = {}
    for of_run in sums:
        for name, values in of_run.items():
            totals[name] = totals.get(name, 0.0) + (
                values if isinstance(values, float) else _sum_values(values)
            )
    return totals


def _sum_values(values: npt.NDArray[np.float64]) -> float:
    if values.size == 1:  # NumPy takes microseconds to add up a single number
        return float(values[0])
    with np.errstate(over="ignore"):
        return float(values.sum())


def norms_by_tensor(
    staging: Staging, runs: Sequence[Run], measurement: GradientStatistics
) -> tuple[tuple[str, float], ...]:
    """The norm of each tensor's gradient before clipping, 0 where it has no elements.

    Args:
        staging: the gradient.
        runs: those of its runs that were measured: all but frozen tensors'.
        measurement: of these runs, by tensor.
    """
    found = {tensor.entry.name: 0.0 for tensor in staging.tensors if not tensor.size}
    for run, sums in zip(runs, measurement.sums, strict=True):
        names = (tensor.entry.name for tensor in run.tensors)
        found.update(zip(names, segment_norms(sums, "squares").tolist(), strict=True))
    order = [tensor.entry.name for tensor in staging.tensors]
    return tuple((name, found[name]) for name in order if name in found)


def non_finite_error(
    staging: Staging, runs: Sequence[Run], measurement: GradientStatistics, stages: Sequence[str]
) -> DomainError:
    """The error that names the first tensor whose prepared gradient is not finite.

    Args:
        staging: the gradient.
        runs: those of its runs that were measured.
        measurement: of these runs, by tensor.
        stages: what a gradient goes through between its conversion and the rule.
    """
    metadata: dict[str, object] = {"tensor": "", "count": measurement.non_finite_count}
    for run, sums in zip(runs, measurement.sums, strict=True):
        for tensor, count in zip(run.tensors, sums["non_finite"], strict=True):
            if count:
                text = _non_finite_text(staging, tensor, int(count), stages)
                metadata["tensor"] = tensor.entry.name
                return DomainError(Reason.NON_FINITE_GRADIENT, text, field=tensor.field, metadata=metadata)
    text = "elements of the gradient were not finite, but shared memory changed before they were located"
    return DomainError(Reason.NON_FINITE_GRADIENT, text, metadata=metadata)


def _non_finite_text(staging: Staging, tensor: StagedTensor, count: int, stages: Sequence[str]) -> str:
    """Describes which values are not finite: elements as sent, or only their transforms."""
    name, dtype = tensor.entry.name, tensor.entry.dtype
    rows = next((rows for rows in staging.sparse if rows.name == name), None)
    sent = staging.array(tensor) if rows is None else rows.values
    as_sent = int(np.count_nonzero(~np.isfinite(sent)))
    if as_sent:
        return f"the gradient of {name!r} has {as_sent} elements that are not finite"
    passed = [f"conversion to {dtype}"] if sent.dtype.itemsize > dtype.itemsize else []
    if rows is not None and np.unique(rows.indices).size < rows.indices.size:
        passed.append("the sum of repeated rows")
    after = ", ".join([*passed, *stages])
    return f"the gradient of {name!r} is finite as sent, but has {count} elements that are not after {after}"
