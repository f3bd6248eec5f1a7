"""The result of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from optserve.formatting import to_record
from optserve.html_tables import render_fields, render_rows
from optserve.parameters import Parameters
from optserve.specs.enums import StepOutcome
from optserve.v1 import session_service_pb2 as wire

OUTCOMES = {int(outcome): outcome for outcome in StepOutcome}


class _Unread:
    """Reads a message's fields when they are asked for: few are, and to read all of them takes long."""

    __slots__ = ("_message",)
    _message: wire.StepResult

    if not TYPE_CHECKING:  # which knows the fields

        def __getattr__(self, name: str) -> object:
            """Called for what is not set: a field that was not asked for yet."""
            if name not in StepResult.__dataclass_fields__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = getattr(self._message, name)
            if name == "outcome":
                value = OUTCOMES.get(value)
            elif name == "tensor_norms":
                value = {norm.name: norm.norm for norm in value}
            setattr(self, name, value)
            return value


@dataclass(slots=True)
class StepResult(_Unread):
    """Result of one step.

    Attributes:
        step: the session's step after it.
        outcome: what was done with the gradient; None for an outcome newer than this client.
        learning_rate: the rate used, before the groups' factors; 0 if no step was taken.
        gradient_norm: joint Euclidean norm of the preprocessed gradients before clipping.
        clipped_gradient_norm: the same after clipping.
        non_finite_count: NaN and infinite elements of the gradient as `NonFinitePolicy` checks it.
        staleness: steps between the one the gradient was computed at and this one.
        regularization_penalty: the penalty at the parameters before the step.
        durable_step: the step that would be recovered if the server were lost now.
        accumulated: gradients accumulated towards the next step, this one included.
        replayed: whether this is a stored result, sent again.
        worker: name of the worker that took the step; empty for a validation.
        sequence: the step's number within its worker; 0 for a validation.
        tensor_norms: norm of each tensor's gradient before clipping, if asked for.
        parameters: the parameters after the step, if asked for; else empty.
        contributions: contributions that were aggregated to the step, or are in the round so far.
        weight: the share of this contribution in a mean, or the factor by which it was damped.
    """

    step: int
    outcome: StepOutcome | None
    learning_rate: float
    gradient_norm: float
    clipped_gradient_norm: float
    non_finite_count: int
    staleness: int
    regularization_penalty: float
    durable_step: int
    accumulated: int
    replayed: bool
    worker: str = ""
    sequence: int = 0
    tensor_norms: Mapping[str, float] = field(default_factory=dict)
    parameters: Parameters = field(default_factory=Parameters)
    contributions: int = 0
    weight: float = 0.0

    @classmethod
    def from_message(cls, message: wire.StepResult, values: Parameters, worker: str) -> StepResult:
        """Returns the result that a server sent.

        Args:
            message: the result.
            values: the parameters that follow the step.
            worker: name of the worker, which a stream's answers leave out.
        """
        result = cls.__new__(cls)
        result._message = message  # type: ignore[misc]  # mypy does not see slots of a base
        result.parameters, result.worker = values, worker
        return result

    def _repr_html_(self) -> str:
        """A table for notebooks; of the parameters, their names, types and shapes."""
        columns = "name", "dtype", "shape"
        rows = ((name, array.dtype, list(array.shape)) for name, array in self.parameters.items())
        pulled = render_rows("", columns, rows, len(self.parameters)) if self.parameters else None
        return render_fields("Step", {**to_record(self), "parameters": pulled})
