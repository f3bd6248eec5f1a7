"""Messages of a step stream: plans, the beginnings of steps, and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy.typing as npt

from optserve.v1 import session_service_pb2 as pb
from optserve.v1.tensor_pb2 import ByteLayout, Tensor
from optserve_server.errors import DomainError, Reason, within
from optserve_server.sessions.session import Session
from optserve_server.shared_memory.regions import Region
from optserve_server.state.sparse_rows import check_has_rows
from optserve_server.state.staging import StagedTensor, check_names, laid_out
from optserve_server.stepping.step_plan import StepPlan
from optserve_server.stepping.step_result import StepOptions, StepResult
from optserve_server.wire.fields.names import checked_key
from optserve_server.wire.fields.tensors import INDEX_DTYPES, array_from, wire_dtype_from
from optserve_server.wire.messages import sessions


def plan_from(
    message: pb.StepPlan,
    find: Callable[[str], Session],
    region_of: Callable[[Session, str], Region],
) -> StepPlan[Session]:
    """A plan, checked against its session; fields of errors are paths within the message.

    Args:
        message: the plan.
        find: returns the session of a resource name.
        region_of: returns a session's region of that name.
    """
    sessions.check_known(message)
    try:
        session = find(message.session)
    except DomainError as error:
        if error.field == "name":  # as other requests call it
            error.field = "session"
        raise
    worker = checked_key(message.worker, "worker")
    dtype = wire_dtype_from(message.gradient_dtype, "gradient_dtype")
    pull = None
    if message.HasField("pull"):
        with within("pull"):
            pull = sessions.pull_from(message.pull)
    region = None
    if message.region:
        _check_region_plan(message)
        region = region_of(session, message.region)
        if pull is not None and not region.holds(pull):
            text = "the memory was shared for other parameters"
            raise DomainError(Reason.CONFLICTING_FIELDS, text, field="pull")
    sparse = list(message.sparse_tensors)
    whole = list(message.tensors) if message.tensors or sparse else None
    gradients = laid_out(session.layout, whole, dtype) if region is None else ()
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


def planned_to(plan: StepPlan[Session]) -> pb.StepStreamResponse:
    """The answer to a plan."""
    session = plan.session
    planned = pb.StepPlanned(step=session.step)
    if plan.region is None:
        planned.gradients.CopyFrom(byte_layout_to(plan.gradients))
    if plan.parameters is not None:
        planned.parameters.CopyFrom(byte_layout_to(plan.parameters))
    if plan.worker:
        planned.next_sequence = session.step_deduplication.next_sequence(plan.worker)
    return pb.StepStreamResponse(planned=planned)


def byte_layout_to(tensors: Iterable[StagedTensor]) -> ByteLayout:
    """Where tensors are in a sequence of bytes."""
    layout = ByteLayout(tensors=map(sessions.staged_to, tensors))
    layout.byte_count = sum(tensor.byte_count for tensor in layout.tensors)
    return layout


def options_from(start: pb.StepStart, plan: StepPlan[Session]) -> StepOptions:
    """What a step asks for; fields of errors are paths within the message."""
    sessions.check_known(start, "options")
    if plan.region is not None and not start.gradient_id:
        text = "a gradient in shared memory needs a gradient_id"
        raise DomainError(Reason.FIELD_REQUIRED, text, field="gradient_id")
    return StepOptions(
        plan.worker,
        start.sequence,
        start.expected_step if start.HasField("expected_step") else None,
        start.loss_scale if start.HasField("loss_scale") else 1.0,
        start.validate_only,
        plan.per_tensor_norms,
        start.gradient_id,
        sessions.overrides_from(start.overrides, "overrides") if start.overrides else (),
        sessions.member_from(start, plan.worker_epoch) if plan.worker_epoch else None,
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


def answer_head_to(result: StepResult, parameters_step: int, parameters_change: int = 0) -> bytes:
    """The fields of an answer before its chunk, encoded.

    Args:
        result: what the step did.
        parameters_step: the step that the parameters belong to; 0 if there are none.
        parameters_change: how many changes they are the outcome of, in live shared memory.
    """
    message = pb.StepStreamResponse(parameters_step=parameters_step, parameters_change=parameters_change)
    sessions.fill_result(message.result, result)
    message.result.worker = ""  # the plan names it
    return message.SerializeToString()
