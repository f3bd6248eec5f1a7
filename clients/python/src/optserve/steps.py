"""What a step asks for, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optserve.framing import Encoded, Framing
from optserve.layout import Layout
from optserve.parameters import Parameters, Pull
from optserve.payload import Payload
from optserve.progress import Bar, Silent
from optserve.specs.enums import StepOutcome
from optserve.v1 import session_service_pb2 as wire

if TYPE_CHECKING:
    from optserve.answer_form import AnswerForm

REQUESTS = Framing(wire.StepStreamRequest)
SILENT = Silent()
OUTCOMES = {int(outcome): outcome for outcome in StepOutcome}


@dataclass(frozen=True)
class StepResult:
    """What one step did.

    Attributes:
        step: the session's step after it.
        outcome: what became of the gradient; None for an outcome newer than this client.
        learning_rate: the rate used, before the groups' factors; 0 where no step was taken.
        gradient_norm: joint Euclidean norm of the preprocessed gradients before clipping.
        clipped_gradient_norm: the same after clipping.
        non_finite_count: NaN and infinite elements among the gradients.
        staleness: steps between the one the gradient was computed at and this one.
        regularization_penalty: the penalty at the parameters before the step.
        durable_step: the step that would come back if the server were lost now.
        accumulated: gradients accumulated towards the next step, this one included.
        replayed: whether this is a stored result, sent again.
        tensor_norms: norm of each tensor's gradient before clipping, where asked for.
        parameters: the parameters after the step, where asked for; else empty.
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
    tensor_norms: Mapping[str, float] = field(default_factory=dict)
    parameters: Parameters = field(default_factory=Parameters)

    @classmethod
    def unread(cls, form: AnswerForm, head: Encoded, values: Parameters) -> StepResult:
        """A result that reads its other fields when the first of them is asked for.

        Args:
            form: reads them.
            head: what it reads them from.
            values: the parameters.
        """
        result = cls.__new__(cls)
        vars(result).update(parameters=values, _unread=(form, head))
        return result

    if not TYPE_CHECKING:  # to type checkers, any name would be a field

        def __getattr__(self, name):
            fields = self.__getstate__()
            if name not in fields:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name)
            return fields[name]

    def __getstate__(self) -> dict[str, Any]:
        """All fields, which are read now where they were not yet."""
        fields = vars(self)
        unread = fields.get("_unread")
        if unread is not None:
            form, head = unread
            fields.update(form.fields(head))
            fields.pop("_unread", None)  # by now, another thread may have done the same
        return fields

    @classmethod
    def of(cls, message: wire.StepResult, values: Parameters) -> StepResult:
        """The result that a server sent."""
        return cls(
            message.step,
            OUTCOMES.get(message.outcome),
            message.learning_rate,
            message.gradient_norm,
            message.clipped_gradient_norm,
            message.non_finite_count,
            message.staleness,
            message.regularization_penalty,
            message.durable_step,
            message.accumulated,
            message.replayed,
            {norm.name: norm.norm for norm in message.tensor_norms},
            values,
        )


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a step asks for beside its gradient."""

    pull: Pull | None = None
    expected_step: int | None = None
    loss_scale: float | None = None
    validate_only: bool = False
    per_tensor_norms: bool = False

    def message(self, layout: Layout, worker: str = "", sequence: int = 0) -> wire.StepOptions:
        """The options on the wire."""
        options = wire.StepOptions(
            worker=worker,
            sequence=sequence,
            validate_only=self.validate_only,
            per_tensor_norms=self.per_tensor_norms,
        )
        if self.expected_step is not None:
            options.expected_step = self.expected_step
        if self.loss_scale is not None:
            options.loss_scale = self.loss_scale
        if self.pull is not None:
            options.pull.CopyFrom(self.pull.message(layout))
            options.pull.SetInParent()
        return options


class StepMessages:
    """The encoded messages of one streamed step, made anew each time they are gone through.

    Args:
        head: a request with the step's header, encoded.
        payload: the gradient, uniform.
        bar: is told of what was made.
    """

    def __init__(self, head: bytes, payload: Payload, bar: Bar = SILENT) -> None:
        self._head, self._payload, self._bar = head, payload, bar

    def __iter__(self) -> Iterator[bytes]:
        return map(b"".join, self.pieces())

    def pieces(self) -> Iterator[Sequence[Any]]:
        """The messages in pieces: contiguous buffers of bytes, which lie where the gradient does."""
        return self._payload.pieces(REQUESTS, self._head, self._bar)

    def keep(self) -> None:
        """Copies the gradient, whose arrays are about to become the caller's again."""
        self._payload = self._payload.copied()


class OneMessage(StepMessages):
    """A step whose one message is made already.

    Args:
        message: with the gradient, encoded.
    """

    def __init__(self, message: bytes) -> None:
        self._message = message

    def pieces(self) -> Iterator[Sequence[Any]]:
        """The message."""
        yield (self._message,)

    def keep(self) -> None:
        """Nothing to do: the gradient was copied."""


def request(name: str, options: wire.StepOptions, payload: Payload) -> wire.StepStreamRequest:
    """What begins a streamed step."""
    header = wire.StepHeader(
        name=name,
        options=options,
        tensors=payload.names,
        gradient_dtype=payload.data_type,
        sparse_gradients=[some.header() for some in payload.rows],
    )
    return wire.StepStreamRequest(header=header)
