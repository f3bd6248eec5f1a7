"""Sessions, steps and values as messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from optserve.v1 import session_pb2, session_service_pb2
from optserve.v1.session_pb2 import GroupSlots, ParameterPoint
from optserve.v1.tensor_pb2 import NamedTensor, SparseRows, TensorLayout
from optserve_server.errors import DomainError, Reason, within
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import ParameterInit
from optserve_server.spec.override import Override
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.state.layout import Layout, TensorEntry
from optserve_server.state.reading import Point, Pull, Values
from optserve_server.state.sparse_rows import NamedRows
from optserve_server.state.staging import NamedArray, StagedTensor, Staging
from optserve_server.state.state_transfer import StateTransfer
from optserve_server.stepping.step_result import MemberOptions, StepOptions, StepOutcome, StepResult
from optserve_server.wire.fields.enums import member_of, number_of
from optserve_server.wire.fields.names import checked_key, checked_tensor_name, session_name
from optserve_server.wire.fields.tensors import (
    INDEX_DTYPES,
    NUMBERS,
    PARAMETER_DTYPES,
    WIRE_DTYPES,
    array_from,
    dtype_from,
    shape_from,
    tensor_to,
    wire_dtype_from,
)
from optserve_server.wire.messages.metrics import plateau_to, stopping_to
from optserve_server.wire.specifications.specs import chosen_from, session_spec_from, session_spec_to

_OUTCOMES = {
    outcome: session_service_pb2.StepOutcome.ValueType(
        number_of(outcome, session_service_pb2.StepOutcome.DESCRIPTOR)
    )
    for outcome in StepOutcome
}


def spec_from(
    request: session_service_pb2.CreateSessionRequest | session_service_pb2.UpdateSessionRequest,
) -> SessionSpec:
    """The specification that a request states; fields of errors start at ``spec``."""
    if not request.HasField("spec"):
        raise DomainError(Reason.FIELD_REQUIRED, "spec is required", field="spec")
    with within("spec"):
        return session_spec_from(request.spec)


def transfer_to(transfer: StateTransfer) -> session_service_pb2.StateTransfer:
    """What became of a group's state."""
    return session_service_pb2.StateTransfer(
        group=transfer.group,
        carried=transfer.carried,
        dropped=transfer.dropped,
        started=transfer.started,
        restarted=transfer.restarted,
    )


def parameters_from(messages: Sequence[session_service_pb2.ParameterInit]) -> list[ParameterInit]:
    """The parameters of a new session; fields of errors start at ``parameters``."""
    parameters = []
    for index, message in enumerate(messages):
        with within(f"parameters[{index}]"):
            parameters.append(_parameter_from(message))
    return parameters


def _parameter_from(message: session_service_pb2.ParameterInit) -> ParameterInit:
    name = checked_tensor_name(message.name)
    source = message.WhichOneof("source")
    if source is None:
        raise DomainError(Reason.FIELD_REQUIRED, "one of value, initializer, upload is required")
    with within(source):
        if source == "value":
            array = array_from(message.value, PARAMETER_DTYPES, name)
            return ParameterInit(name, array.dtype, array.shape, array)
        given = message.initializer if source == "initializer" else message.upload
        dtype = dtype_from(given.dtype, PARAMETER_DTYPES, "dtype")
        shape = shape_from(given.shape)
        if source == "upload":
            return ParameterInit(name, dtype, shape, None)
        with within("spec"):
            return ParameterInit(name, dtype, shape, chosen_from(message.initializer.spec).algorithm)


def gradients_from(messages: Sequence[NamedTensor]) -> list[NamedArray]:
    """The gradients of a unary step, viewed; fields of errors start at ``gradients``."""
    arrays = []
    for index, message in enumerate(messages):
        with within(f"gradients[{index}].tensor"):
            arrays.append(NamedArray(message.name, array_from(message.tensor, WIRE_DTYPES, message.name)))
    return arrays


def sparse_gradients_from(messages: Sequence[SparseRows]) -> list[NamedRows]:
    """The rows of a unary step, viewed; fields of errors start at ``sparse_gradients``."""
    found = []
    for index, message in enumerate(messages):
        with within(f"sparse_gradients[{index}]"):
            with within("indices"):
                indices = array_from(message.indices, INDEX_DTYPES, message.name)
            with within("values"):
                values = array_from(message.values, WIRE_DTYPES, message.name)
        found.append(NamedRows(message.name, indices, values))
    return found


def options_from(message: session_service_pb2.StepOptions) -> StepOptions:
    """What a unary step asks for; fields of errors start at ``options``."""
    check_known(message, "options")
    return StepOptions(
        worker=checked_key(message.worker, "options.worker"),
        sequence=message.sequence,
        expected_step=message.expected_step if message.HasField("expected_step") else None,
        loss_scale=message.loss_scale if message.HasField("loss_scale") else 1.0,
        validate_only=message.validate_only,
        per_tensor_norms=message.per_tensor_norms,
        overrides=overrides_from(message.overrides, "options.overrides"),
        member=member_from(message, message.worker_epoch) if message.worker_epoch else None,
    )


def member_from(
    message: session_service_pb2.StepOptions | session_service_pb2.StepStart, epoch: int
) -> MemberOptions:
    """What a member's step states besides; fields of errors start at ``options``."""
    return MemberOptions(
        epoch,
        message.example_count if message.HasField("example_count") else 1,
        message.parameters_step if message.HasField("parameters_step") else None,
    )


def overrides_from(
    messages: Sequence[session_service_pb2.HyperparameterOverride], field: str
) -> tuple[Override, ...]:
    """The hyperparameters that have other values in one step; ``field`` is where they stand."""
    for index, message in enumerate(messages):
        check_known(message, f"{field}[{index}]")
    return tuple(Override(m.group if m.HasField("group") else None, m.name, m.value) for m in messages)


def check_known(message: Message, field: str | None = None) -> None:
    """Rejects fields that this server does not know: they could change what a step means.

    Raises:
        DomainError: UNSUPPORTED_VALUE at ``field``; None for the message itself.
    """
    unknown = UnknownFieldSet(message)
    if len(unknown):
        numbers = ", ".join(str(unknown[index].field_number) for index in range(len(unknown)))
        name = message.DESCRIPTOR.name
        raise DomainError(
            Reason.UNSUPPORTED_VALUE,
            f"field {numbers} of {name} is not known; GetCapabilities lists what this server offers",
            field=field,
        )


def pull_from(message: session_service_pb2.PullOptions) -> Pull:
    """Which values to send; fields of errors are paths within ``message``."""
    check_known(message)
    dtype = wire_dtype_from(message.wire_dtype, "wire_dtype")
    return Pull(tuple(message.tensors) or None, dtype, _point_from(message.point))


def _point_from(number: int) -> Point:
    with within("point"):
        return member_of(Point, ParameterPoint.DESCRIPTOR, number) if number else Point.PARAMETERS


def session_to(session: Session) -> session_pb2.Session:
    """A session without its values."""
    message = session_pb2.Session(
        name=session_name(session.id),
        spec=session_spec_to(session.spec),
        layout=_layout_to(session.layout),
        step=session.step,
        accumulated=session.accumulated,
        skipped=session.skipped,
        state=_state_of(session),
        resident_bytes=session.resident_bytes,
        seed=session.seed,
        slots=[GroupSlots(group=group, slots=slots) for group, slots in session.slot_names().items()],
        reduce_on_plateau=plateau_to(session.monitors.plateau),
        early_stopping=stopping_to(session.monitors.stopping),
        durable_step=session.durable_step,
    )
    message.create_time.FromDatetime(session.created)
    return message


def _state_of(session: Session) -> session_pb2.SessionState.ValueType:
    if not session.ready:
        return session_pb2.SESSION_STATE_AWAITING_PARAMETERS
    stopped = session.monitors.stopped
    return session_pb2.SESSION_STATE_STOPPED if stopped else session_pb2.SESSION_STATE_READY


def result_to(result: StepResult) -> session_service_pb2.StepResult:
    """What a step did."""
    message = session_service_pb2.StepResult()
    fill_result(message, result)
    return message


def fill_result(message: session_service_pb2.StepResult, result: StepResult) -> None:
    """Writes what a step did over a message, which may be used again and again."""
    message.step = result.step
    message.outcome = _OUTCOMES[result.outcome]
    message.learning_rate = result.learning_rate
    message.gradient_norm = result.gradient_norm
    message.clipped_gradient_norm = result.clipped_gradient_norm
    message.non_finite_count = result.non_finite_count
    message.staleness = result.staleness
    message.regularization_penalty = result.regularization_penalty
    message.durable_step = result.durable_step
    message.accumulated = result.accumulated
    message.replayed = result.replayed
    message.worker = result.worker
    message.sequence = result.sequence
    message.contributions = result.contributions
    message.weight = result.weight
    message.ClearField("tensor_norms")
    for name, norm in result.tensor_norms:
        message.tensor_norms.add(name=name, norm=norm)


def values_header_to(values: Values) -> session_service_pb2.ParametersHeader:
    """What the chunks of ``values`` hold."""
    return session_service_pb2.ParametersHeader(
        step=values.step,
        point=point_to(values.point),
        layout=[staged_to(tensor) for tensor in values.tensors],
        byte_count=values.buffer.size,
    )


def point_to(point: Point) -> ParameterPoint.ValueType:
    """A point's number."""
    return ParameterPoint.ValueType(number_of(point, ParameterPoint.DESCRIPTOR))


def not_modified_to(step: int, point: Point) -> session_service_pb2.ParametersHeader:
    """The answer to a pull that asks for something newer than there is."""
    return session_service_pb2.ParametersHeader(step=step, point=point_to(point), not_modified=True)


def staged_values_to(staging: Staging) -> list[NamedTensor]:
    """Values in one message."""
    return [
        NamedTensor(name=t.entry.name, tensor=tensor_to(staging.array(t).reshape(t.entry.shape)))
        for t in staging.tensors
    ]


def _layout_to(layout: Layout) -> list[TensorLayout]:
    return [_entry_to(entry, entry.dtype, entry.byte_offset) for entry in layout.entries]


def staged_to(tensor: StagedTensor) -> TensorLayout:
    """Where a tensor lies in a staging."""
    return _entry_to(tensor.entry, tensor.dtype, tensor.byte_offset)


def _entry_to(entry: TensorEntry, dtype: np.dtype[Any], byte_offset: int) -> TensorLayout:
    return TensorLayout(
        name=entry.name,
        dtype=NUMBERS[dtype],
        shape=entry.shape,
        byte_offset=byte_offset,
        group=entry.group,
        byte_count=entry.size * dtype.itemsize,
    )
