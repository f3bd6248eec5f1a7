"""Sessions as messages."""

from __future__ import annotations

from collections.abc import Sequence

from optserve.v1 import session_pb2, session_service_pb2
from optserve.v1.session_pb2 import GroupSlots
from optserve_server.errors import DomainError, Reason, within
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import ParameterInit
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.state.state_transfer import StateTransfer
from optserve_server.wire.fields.names import check_tensor_name, session_name
from optserve_server.wire.fields.tensors import (
    PARAMETER_DTYPES,
    array_from,
    dtype_from,
    shape_from,
)
from optserve_server.wire.messages.metrics import early_stopping_to, plateau_to
from optserve_server.wire.messages.parameters import add_layout
from optserve_server.wire.specifications.specs import algorithm_from, session_spec_from, session_spec_to


def spec_from(
    request: session_service_pb2.CreateSessionRequest | session_service_pb2.UpdateSessionRequest,
) -> SessionSpec:
    """The specification that a request states; fields of errors start at ``spec``."""
    if not request.HasField("spec"):
        raise DomainError(Reason.FIELD_REQUIRED, "spec is required", field="spec")
    with within("spec"):
        return session_spec_from(request.spec)


def transfer_to(transfer: StateTransfer) -> session_service_pb2.StateTransfer:
    """The transfer of a group's state as a message."""
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
            parameters.append(_decode_parameter(message))
    return parameters


def _decode_parameter(message: session_service_pb2.ParameterInit) -> ParameterInit:
    name = check_tensor_name(message.name)
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
            return ParameterInit(name, dtype, shape, algorithm_from(message.initializer.spec).algorithm)


def fill_session(message: session_pb2.Session, session: Session) -> None:
    """Writes a session without its values into a message."""
    message.MergeFrom(
        session_pb2.Session(
            name=session_name(session.id),
            spec=session_spec_to(session.spec),
            step=session.step,
            accumulated=session.accumulated,
            skipped=session.skipped,
            state=_session_state_number(session),
            resident_bytes=session.resident_bytes,
            seed=session.seed,
            slots=[GroupSlots(group=group, slots=slots) for group, slots in session.slot_names().items()],
            reduce_on_plateau=plateau_to(session.monitors.plateau),
            early_stopping=early_stopping_to(session.monitors.stopping),
            durable_step=session.durable_step,
        )
    )
    for entry in session.layout.entries:
        add_layout(message.layout, entry, entry.dtype, entry.byte_offset)
    message.create_time.FromDatetime(session.created)
    progress = session.coordinator.progress
    if progress is not None:
        message.data_plan.shard_count = progress.plan.shard_count
        message.data_plan.completed = progress.completed_count
        message.data_plan.leased = progress.leased_count
        message.data_plan.epoch = progress.first_incomplete_epoch


def _session_state_number(session: Session) -> session_pb2.SessionState.ValueType:
    if not session.ready:
        return session_pb2.SESSION_STATE_AWAITING_PARAMETERS
    stopped = session.monitors.stopped
    return session_pb2.SESSION_STATE_STOPPED if stopped else session_pb2.SESSION_STATE_READY
