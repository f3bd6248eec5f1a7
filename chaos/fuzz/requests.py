"""Requests as honest clients send them: what hostile ones are made from."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
from google.protobuf.message import Message

from optserve.v1 import capabilities_service_pb2 as capabilities
from optserve.v1 import function_service_pb2 as functions
from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import name_arrays, sgd, tensor

SESSIONS = "/optserve.v1.SessionService/"
FUNCTIONS = "/optserve.v1.FunctionService/"
VICTIMS = tuple(f"victim-{number}" for number in range(4))
"""Sessions that hostile requests may step, change and delete."""

IMPORTED = ("imported-0", "imported-1", "imported-2")
"""Sessions that hostile imports may make."""

ELEMENTS = 16


def victim(random: Random) -> str:
    """The name of one of the victims."""
    return f"sessions/{random.choice(VICTIMS)}"


def values(random: Random) -> dict[str, np.ndarray]:
    """Two tensors."""
    halves = np.array([random.gauss(0, 1) for _ in range(ELEMENTS)], np.float32).reshape(2, ELEMENTS // 2)
    return {"a": halves[0], "b": halves[1].reshape(2, -1)}


def create(random: Random) -> pb.CreateSessionRequest:
    """Makes a victim, or another session."""
    session_id = random.choice([*VICTIMS, ""])
    request = pb.CreateSessionRequest(spec=sgd(), session_id=session_id, request_id=random.choice(["", "r"]))
    for name, value in values(random).items():
        request.parameters.add(name=name, value=tensor(value))
    return request


def step(random: Random) -> pb.StepRequest:
    """A step, now and then of a worker or with a pull."""
    options = pb.StepOptions(validate_only=random.random() < 0.2)
    if random.random() < 0.5:
        options.worker, options.sequence = "w", random.randrange(1, 5)
    if random.random() < 0.5:
        options.pull.SetInParent()
    return pb.StepRequest(name=victim(random), options=options, gradients=name_arrays(values(random)))


def update(random: Random) -> pb.UpdateSessionRequest:
    """Another learning rate."""
    return pb.UpdateSessionRequest(name=victim(random), spec=sgd(random.random()))


def report(random: Random) -> pb.ReportMetricsRequest:
    """A metric that the session does not monitor."""
    request = pb.ReportMetricsRequest(name=victim(random))
    request.metrics.add(name="loss", value=random.random())
    return request


def loss(random: Random) -> functions.ComputeLossRequest:
    """A loss of a caller's own formula."""
    value = np.array([random.random() for _ in range(4)], np.float32)
    request = functions.ComputeLossRequest(prediction=tensor(value), target=tensor(value), gradient=True)
    request.loss.custom.expression = "(y_pred - y_true)**2"
    return request


def activation(random: Random) -> functions.ComputeActivationRequest:
    """A softmax."""
    request = functions.ComputeActivationRequest(input=tensor(np.ones((2, 3), np.float32)))
    request.activation.softmax.SetInParent()
    return request


def schedule(random: Random) -> functions.EvaluateScheduleRequest:
    """Some rates."""
    request = functions.EvaluateScheduleRequest()
    request.schedule.constant.SetInParent()
    return request


def name_only(kind: type[Message]) -> Callable[[Random], Message]:
    """A request that has little but a name."""
    return lambda random: kind(name=victim(random))


HONEST: dict[str, Callable[[Random], Message]] = {
    SESSIONS + "CreateSession": create,
    SESSIONS + "GetSession": name_only(pb.GetSessionRequest),
    SESSIONS + "ListSessions": lambda random: pb.ListSessionsRequest(page_size=random.randrange(100)),
    SESSIONS + "DeleteSession": name_only(pb.DeleteSessionRequest),
    SESSIONS + "UpdateSession": update,
    SESSIONS + "ReportMetrics": report,
    SESSIONS + "Step": step,
    SESSIONS + "PullParameters": name_only(pb.PullParametersRequest),
    SESSIONS + "WatchSession": name_only(pb.WatchSessionRequest),
    FUNCTIONS + "EvaluateSchedule": schedule,
    FUNCTIONS + "ComputeLoss": loss,
    FUNCTIONS + "ComputeActivation": activation,
    "/optserve.v1.CapabilitiesService/GetCapabilities": lambda _: capabilities.GetCapabilitiesRequest(),
}
"""An honest request of each method that takes one."""
