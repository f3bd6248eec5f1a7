"""The Python client's conformance driver; see proto/optserve/conformance/v1/driver.proto.

``python clients/python/conformance/driver.py HOST:PORT`` answers on standard output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from stubs import driver_pb2 as pb
from timing import Timer
from values import arrays, first_value, list_fields, specification, tensors
from worker import Worker, refusal_of

import optserve
from optserve._codec.dtypes import Array, from_tensor, to_tensor
from optserve.spec import decode_spec
from optserve.v1 import function_service_pb2, session_pb2

PREFIX_BYTES = 4

Call = Callable[[Any], pb.DriverResponse]


def main() -> int:
    """Answers requests until the input ends."""
    with optserve.connect(sys.argv[-1], progress=False) as client, contextlib.closing(Worker()) as worker:
        calls = calls_of(client, worker, Timer())
        while (request := read(sys.stdin.buffer)) is not None:
            write(sys.stdout.buffer, answer(calls, request))
    return 0


def read(source: BinaryIO) -> pb.DriverRequest | None:
    """The next request; None at the end."""
    prefix = source.read(PREFIX_BYTES)
    if not prefix:
        return None
    return pb.DriverRequest.FromString(source.read(int.from_bytes(prefix, "big")))


def write(target: BinaryIO, response: pb.DriverResponse) -> None:
    """Sends one response."""
    body = response.SerializeToString()
    target.write(len(body).to_bytes(PREFIX_BYTES, "big") + body)
    target.flush()


def answer(calls: Mapping[str, Call], request: pb.DriverRequest) -> pb.DriverResponse:
    """What came of a request, errors included."""
    name = request.WhichOneof("call")
    if name is None:
        return pb.DriverResponse(unsupported="a call that is newer than this driver")
    try:
        return calls[name](getattr(request, name))
    except optserve.OptserveError as error:
        if error.reason is None and name not in OF_TRANSCRIPT:
            return pb.DriverResponse(failure=f"{type(error).__name__}: {error}")
        return pb.DriverResponse(refusal=refusal_of(error))
    except Exception as error:
        return pb.DriverResponse(failure=f"{type(error).__name__}: {error}")


def train(client: optserve.Client, call: pb.TrainCall) -> pb.DriverResponse:
    """Takes steps in a session of their own."""
    parameters = {init.name: first_value(init) for init in call.parameters}
    session = client.create_session(parameters, **list_fields(decode_spec(call.spec)), seed=call.seed)
    try:
        found = pb.TrainAnswer(initial=tensors(session.pull()))
        for result in take_steps(session, call, found):
            found.parameters.append(tensors(result.parameters))
            if call.after:
                found.after.append(pull(session, call.after))
        return pb.DriverResponse(train=found)
    finally:
        session.delete()


def take_steps(
    session: optserve.SessionHandle, call: pb.TrainCall, found: pb.TrainAnswer
) -> Iterator[optserve.StepResult]:
    """Takes the steps; several are under way at once where nothing is read between them."""
    with session.stream(pull=True) if call.stream else contextlib.nullcontext() as stream:
        if stream and not (call.before or call.after or call.overrides):
            yield from stream.steps(gradients_of(call))
            return
        for gradients, changed in itertools.zip_longest(gradients_of(call), call.overrides):
            if call.before:
                found.before.append(pull(session, call.before))
            overrides = overrides_of(changed) if changed is not None else None
            if stream:
                yield stream.step(gradients, overrides=overrides)
            else:
                yield session.step(gradients, overrides=overrides, pull=True)


def overrides_of(message: pb.StepOverrides) -> dict[str, Any]:
    """Values by name for every group, and by group and name."""
    found: dict[str, Any] = {}
    for override in message.overrides:
        values = found.setdefault(override.group, {}) if override.HasField("group") else found
        values[override.name] = override.value
    return found


def gradients_of(call: pb.TrainCall) -> Iterator[dict[str, Array | optserve.SparseRows]]:
    """The gradients of each step: whole arrays and rows by name."""
    for whole, sparse in itertools.zip_longest(call.gradients, call.sparse_gradients):
        rows = sparse.tensors if sparse is not None else ()
        yield {
            **arrays(whole),
            **{r.name: optserve.SparseRows(from_tensor(r.indices), from_tensor(r.values)) for r in rows},
        }


def pull(session: optserve.SessionHandle, point: int) -> pb.Tensors:
    """One of the session's values."""
    return tensors(session.pull(point=optserve.ParameterPoint(point)))


def schedule(client: optserve.Client, call: pb.ScheduleCall) -> pb.DriverResponse:
    """Evaluates a schedule."""
    values = client.evaluate_schedule(specification(call.schedule), list(call.steps))
    return pb.DriverResponse(schedule=pb.ScheduleAnswer(values=to_tensor(values)))


def loss(client: optserve.Client, call: pb.LossCall) -> pb.DriverResponse:
    """Computes a loss and its gradient."""
    options: dict[str, Any] = {}
    if call.HasField("sample_weight"):
        options["sample_weight"] = from_tensor(call.sample_weight)
    found = client.loss(
        specification(call.loss), from_tensor(call.prediction), from_tensor(call.target),
        gradient=True, per_example=True, **options,
    )  # fmt: skip
    answer = pb.LossAnswer(per_example=to_tensor(found.per_example), gradient=to_tensor(found.gradient))
    if call.loss.reduction != NOT_REDUCED:
        answer.value = found.value
    return pb.DriverResponse(loss=answer)


def activation(client: optserve.Client, call: pb.ActivationCall) -> pb.DriverResponse:
    """Computes an activation and its gradient."""
    spec, x, dy = specification(call.activation), from_tensor(call.input), from_tensor(call.output_gradient)
    answer = pb.ActivationAnswer()
    if call.HasField("slope"):
        slope = from_tensor(call.slope)
        answer.output.CopyFrom(to_tensor(client.activation(spec, x, slope=slope)))
        dx, d_slope = client.activation_gradient(spec, x, dy, slope=slope)
        answer.slope_gradient.CopyFrom(to_tensor(d_slope))
    else:
        answer.output.CopyFrom(to_tensor(client.activation(spec, x)))
        dx = client.activation_gradient(spec, x, dy)
    answer.input_gradient.CopyFrom(to_tensor(dx))
    return pb.DriverResponse(activation=answer)


def complexity(client: optserve.Client, call: pb.ComplexityCall) -> pb.DriverResponse:
    """Estimates a network."""
    found = pb.ComplexityAnswer()
    for layer in client.estimate_complexity(specification(call.network)).layers:
        counts = function_service_pb2.Complexity(**dataclasses.asdict(layer.complexity))
        found.layers.add(name=layer.name, output_shape=layer.output_shape, complexity=counts)
    return pb.DriverResponse(complexity=found)


def metrics(client: optserve.Client, call: pb.MetricsCall) -> pb.DriverResponse:
    """Takes steps and reports a metric beside each."""
    first = {call.parameter.name: from_tensor(call.parameter.tensor)}
    gradient = {call.gradient.name: from_tensor(call.gradient.tensor)}
    session = client.create_session(first, **list_fields(decode_spec(call.spec)))
    found = pb.MetricsAnswer()
    try:
        for value in call.values:
            step = None if call.report_first else session.step(gradient)
            report = session.report({call.metric: value})
            if step is None and not report.stopped:
                step = session.step(gradient)
            found.reports.add(
                learning_rate=step.learning_rate if step else 0.0,
                reduce_on_plateau=state(session_pb2.ReduceOnPlateauState, report.reduce_on_plateau),
                early_stopping=state(session_pb2.EarlyStoppingState, report.early_stopping),
                stopped=report.stopped,
            )
            if report.stopped:
                break
        found.parameter.CopyFrom(tensors(session.pull()).tensors[0])
        return pb.DriverResponse(metrics=found)
    finally:
        session.delete()


def state(kind: Any, value: Any) -> Any:
    """A value of the client as the message that has its fields; None for None."""
    if value is None:
        return None
    found = {field.name: getattr(value, field.name, None) for field in kind.DESCRIPTOR.fields}
    return kind(**{name: item for name, item in found.items() if item is not None})


NOT_REDUCED = optserve.LossReduction.NONE.value
OF_TRANSCRIPT = ("connect", "open", "join", "steps", "read", "leave")
"""Calls whose errors are refusals even if they have no reason."""


def calls_of(client: optserve.Client, worker: Worker, timer: Timer) -> dict[str, Call]:
    """What answers each call."""
    alone = (train, schedule, loss, activation, complexity, metrics)
    return {
        **{call.__name__: functools.partial(call, client) for call in alone},
        **{name: getattr(worker, name) for name in OF_TRANSCRIPT},
        "time": timer.time,
    }


if __name__ == "__main__":
    raise SystemExit(main())
