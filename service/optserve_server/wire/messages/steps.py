"""Messages of steps, unary and streamed: options, gradients, plans and results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy.typing as npt
from google.protobuf.unknown_fields import UnknownFieldSet

from optserve._codec.framing import Framing
from optserve.v1 import session_service_pb2 as pb
from optserve.v1.tensor_pb2 import ByteLayout, NamedTensor, SparseRows, Tensor
from optserve_server.errors import DomainError, Reason, within
from optserve_server.sessions.session import Session
from optserve_server.shared_memory.regions import Region
from optserve_server.spec.override import Override
from optserve_server.state.read_parameters import Reply
from optserve_server.state.sparse_rows import NamedRows, check_has_rows
from optserve_server.state.staging import NamedArray, StagedTensor, check_names, lay_out
from optserve_server.state.step_result import MemberOptions, StepOptions, StepOutcome, StepResult
from optserve_server.stepping.step_plan import StepPlan
from optserve_server.wire.fields.enums import enum_number
from optserve_server.wire.fields.names import check_identifier
from optserve_server.wire.fields.tensors import INDEX_DTYPES, WIRE_DTYPES, array_from, wire_dtype_from
from optserve_server.wire.fields.unknown_fields import reject_unknown_fields
from optserve_server.wire.messages.parameters import add_staged_layout, pull_from

RESPONSES = Framing(pb.StepStreamResponse)

Pieces = Sequence[Any]
"""An encoded message in pieces: contiguous buffers of bytes."""

OUTCOME_NUMBERS = {
    outcome: pb.StepOutcome.ValueType(enum_number(outcome, pb.StepOutcome.DESCRIPTOR))
    for outcome in StepOutcome
}
"""Numbers of outcomes in messages."""


def gradients_from(messages: Sequence[NamedTensor]) -> list[NamedArray]:
    """The gradients of a unary step, viewed; fields of errors start at ``gradients``."""
    arrays: list[NamedArray] = []
    try:
        for message in messages:
            arrays.append(NamedArray(message.name, array_from(message.tensor, WIRE_DTYPES, message.name)))
    except DomainError as error:
        error.prefix_field(f"gradients[{len(arrays)}].tensor")
        raise
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


def unary_options_from(message: pb.StepOptions) -> StepOptions:
    """What a unary step asks for; fields of errors start at ``options``."""
    if len(UnknownFieldSet(message)):
        reject_unknown_fields(message, "options")
    return _check_options(
        StepOptions(
            check_identifier(message.worker, "options.worker"),
            message.sequence,
            message.expected_step if message.HasField("expected_step") else None,
            message.loss_scale if message.HasField("loss_scale") else 1.0,
            message.validate_only,
            message.per_tensor_norms,
            0,
            overrides_from(message.overrides, "options.overrides") if message.overrides else (),
            _member_options_from(message, message.worker_epoch)
            if message.worker_epoch or message.completed_shards
            else None,
        )
    )


def _member_options_from(message: pb.StepOptions | pb.StepStart, epoch: int) -> MemberOptions:
    """What a member's step states besides; fields of errors start at ``options``.

    Raises:
        DomainError: OUT_OF_RANGE, or FIELD_REQUIRED for shards without an epoch.
    """
    if not epoch:
        text = "worker_epoch is required by completed_shards"
        raise DomainError(Reason.FIELD_REQUIRED, text, field="options.worker_epoch")
    count = message.example_count if message.HasField("example_count") else 1
    if not count:
        text = "example_count is 0, but must be at least 1"
        raise DomainError(Reason.OUT_OF_RANGE, text, field="options.example_count")
    return MemberOptions(
        epoch,
        count,
        message.parameters_step if message.HasField("parameters_step") else None,
        tuple(message.completed_shards),
    )


def _check_options(options: StepOptions) -> StepOptions:
    """Checks options; fields of errors start at ``options``.

    Raises:
        DomainError: CONFLICTING_FIELDS or OUT_OF_RANGE.
    """
    if bool(options.worker) != (options.sequence > 0):
        raise DomainError(
            Reason.CONFLICTING_FIELDS,
            "a worker counts its steps from 1, and a step without a worker has no sequence",
            field="options.sequence",
        )
    scale = options.loss_scale
    if scale != 1.0 and (not math.isfinite(scale) or scale == 0):
        raise DomainError(
            Reason.OUT_OF_RANGE,
            f"loss_scale is {options.loss_scale}, but must be finite and not 0",
            field="options.loss_scale",
        )
    return options


def overrides_from(messages: Sequence[pb.HyperparameterOverride], field: str) -> tuple[Override, ...]:
    """The hyperparameters that have other values in one step; ``field`` is where they stand."""
    for index, message in enumerate(messages):
        reject_unknown_fields(message, f"{field}[{index}]")
    return tuple(Override(m.group if m.HasField("group") else None, m.name, m.value) for m in messages)


def result_to(result: StepResult) -> pb.StepResult:
    """What a step did."""
    message = pb.StepResult()
    _fill_result(message, result)
    message.worker = result.worker
    return message


def _fill_result(message: pb.StepResult, result: StepResult) -> None:
    """Writes what a step did, but for its worker, into an empty message."""
    message.step = result.step
    message.outcome = OUTCOME_NUMBERS[result.outcome]
    message.learning_rate = result.learning_rate
    message.gradient_norm = result.gradient_norm
    message.clipped_gradient_norm = result.clipped_gradient_norm
    message.sequence = result.sequence
    message.durable_step = result.durable_step
    if result.non_finite_count:
        message.non_finite_count = result.non_finite_count
    if result.staleness:
        message.staleness = result.staleness
    if result.regularization_penalty:
        message.regularization_penalty = result.regularization_penalty
    if result.accumulated:
        message.accumulated = result.accumulated
    if result.replayed:
        message.replayed = True
    if result.contributions:
        message.contributions = result.contributions
    if result.weight:
        message.weight = result.weight
    for name, norm in result.tensor_norms:
        message.tensor_norms.add(name=name, norm=norm)


def find_plan_session(message: pb.StepPlan, find: Callable[[str], Session]) -> Session:
    """Finds the session of a plan; fields of errors are paths within the message.

    Args:
        message: the plan.
        find: returns the session of a resource name.
    """
    reject_unknown_fields(message)
    try:
        return find(message.session)
    except DomainError as error:
        if error.field == "name":  # as other requests call it
            error.field = "session"
        raise


def plan_from(
    message: pb.StepPlan, session: Session, region_of: Callable[[Session, str], Region]
) -> StepPlan[Session]:
    """A plan, checked against its session; fields of errors are paths within the message.

    Args:
        message: the plan.
        session: what `find_plan_session` returned.
        region_of: returns a session's region of that name.
    """
    worker = check_identifier(message.worker, "worker")
    dtype = wire_dtype_from(message.gradient_dtype, "gradient_dtype")
    pull = None
    if message.HasField("pull"):
        with within("pull"):
            pull = pull_from(message.pull)
    region = None
    if message.region:
        _check_region_plan(message)
        region = region_of(session, message.region)
        if pull is not None and not region.has_memory_for(pull):
            text = "the memory was shared for other parameters"
            raise DomainError(Reason.CONFLICTING_FIELDS, text, field="pull")
    sparse = list(message.sparse_tensors)
    whole = list(message.tensors) if message.tensors or sparse else None
    gradients = lay_out(session.layout, whole, dtype) if region is None else ()
    if sparse:
        fields = [f"sparse_tensors[{index}]" for index in range(len(sparse))]
        known = [f"tensors[{index}]" for index in range(len(whole or ()))]
        check_names(session.layout, [*(whole or ()), *sparse], [*known, *fields])
        for name, field in zip(sparse, fields, strict=True):
            check_has_rows(session.layout[name], field)
    return StepPlan(
        session,
        gradients,
        worker=worker,
        sparse_tensors=sparse,
        dtype=dtype,
        pull=pull,
        region=region,
        per_tensor_norms=message.per_tensor_norms,
        worker_epoch=message.worker_epoch,
    )


def _check_region_plan(message: pb.StepPlan) -> None:
    """Rejects what contradicts shared memory."""
    given = {
        "tensors": bool(message.tensors),
        "gradient_dtype": bool(message.gradient_dtype),
        "sparse_tensors": bool(message.sparse_tensors),
    }
    for field, stated in given.items():
        if stated:
            text = f"{field} must be unset with a region, which fixes what the memory holds"
            raise DomainError(Reason.CONFLICTING_FIELDS, text, field=field)


def plan_answer_to(plan: StepPlan[Session]) -> bytes:
    """The answer to a plan, encoded."""
    session, response = plan.session, pb.StepStreamResponse()
    planned = response.planned
    planned.step = session.step
    planned.SetInParent()
    if plan.region is None:
        _fill_layout(planned.gradients, plan.gradients)
    if plan.parameters is not None:
        _fill_layout(planned.parameters, plan.parameters)
    if plan.worker:
        planned.next_sequence = session.step_deduplication.next_sequence(plan.worker)
        upload = session.coordinator.uploads.find_upload(plan.worker)
        planned.upload_id, planned.received_bytes = upload.upload_id, upload.received.size
    return response.SerializeToString()


def _fill_layout(layout: ByteLayout, tensors: Sequence[StagedTensor]) -> None:
    """States where tensors are in a sequence of bytes."""
    layout.byte_count = sum(tensor.byte_count for tensor in tensors)
    layout.SetInParent()
    for tensor in tensors:
        add_staged_layout(layout.tensors, tensor)


def options_from(start: pb.StepStart, plan: StepPlan[Session]) -> StepOptions:
    """What a step asks for; fields of errors are paths within the message."""
    if len(UnknownFieldSet(start)):
        reject_unknown_fields(start, "options")
    if plan.region is not None and not start.gradient_id:
        text = "a gradient in shared memory needs a gradient_id"
        raise DomainError(Reason.FIELD_REQUIRED, text, field="gradient_id")
    return _check_options(
        StepOptions(
            plan.worker,
            start.sequence,
            start.expected_step if start.HasField("expected_step") else None,
            start.loss_scale if start.HasField("loss_scale") else 1.0,
            start.validate_only,
            plan.per_tensor_norms,
            start.gradient_id,
            overrides_from(start.overrides, "overrides") if start.overrides else (),
            _member_options_from(start, plan.worker_epoch)
            if plan.worker_epoch or start.completed_shards
            else None,
        )
    )


def row_indices_from(messages: Iterable[Tensor], plan: StepPlan[Session]) -> list[npt.NDArray[Any]]:
    """The rows of each of a plan's sparse tensors, viewed; fields of errors start at ``row_indices``."""
    found: list[npt.NDArray[Any]] = []
    for index, message in enumerate(messages):
        with within(f"row_indices[{index}]"):
            found.append(array_from(message, INDEX_DTYPES))
    if len(found) != len(plan.sparse_tensors):
        raise DomainError(
            Reason.CONFLICTING_FIELDS,
            f"{len(found)} row_indices are given, but the plan has {len(plan.sparse_tensors)} sparse_tensors",
            field="row_indices",
        )
    return found


def encode_answer_head(result: StepResult, parameters_step: int, parameters_change: int = 0) -> bytes:
    """The fields of an answer before its chunk, encoded.

    Args:
        result: what the step did.
        parameters_step: the step that the parameters belong to; 0 if there are none.
        parameters_change: how many changes they are the outcome of, in live shared memory.
    """
    message = pb.StepStreamResponse()
    message.parameters_step = parameters_step
    if parameters_change:
        message.parameters_change = parameters_change
    _fill_result(message.result, result)  # the plan names its worker
    return message.SerializeToString()


def encode_answer(result: StepResult, reply: Reply | None, chunk_bytes: int) -> Sequence[Pieces]:
    """The messages of an answer, each in pieces; the parameters' bytes stay where they are.

    A message costs more than a small model's bytes, so the first chunk is in the same one as the result.
    """
    head = encode_answer_head(result, 0 if reply is None else reply.step)
    if reply is None or not reply.staging.byte_count:
        return ((head,),)
    buffer = reply.staging.data
    if len(buffer) <= chunk_bytes:
        return (RESPONSES.contiguous_message_buffers(head, 0, buffer),)
    starts = range(0, len(buffer), chunk_bytes)
    chunks = [(start, buffer[start : start + chunk_bytes]) for start in starts]
    return [RESPONSES.contiguous_message_buffers(b"" if at else head, at, chunk) for at, chunk in chunks]
