"""The family ``metrics`` on a session in this process, over a socket, and through the Python client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import optserve
from optserve import spec
from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_pb2 import SessionSpec
from optserve.v1.session_service_pb2_grpc import SessionServiceStub
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.sessions.result import StepOptions
from optserve_server.sessions.session import Session
from optserve_server.sessions.staging import NamedArray
from optserve_server.sessions.store import ParameterInit, Store
from optserve_server.wire.specs import session_spec_from
from tests.conformance import corpus
from tests.conformance.comparator import judge
from tests.conformance.corpus import Case
from tests.conformance.messages import parse
from tests.conformance.reports import Trained, follow
from tests.conformance.served import Client, tensor
from tests.support.server import RunningServer

ZERO, DOWN = np.zeros(1), np.array([-1.0])

each_case = pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(file.name, case, id=f"{file.name}-{case.name}")
        for file in corpus.load_family("metrics")
        for case in file.cases
    ],
)


def verify(name: str, case: Case, session: Trained) -> None:
    judge(follow(name, case, session), case.expected, case.tolerance["float64"], np.float64, "metrics")


def message_of(case: Case) -> SessionSpec:
    message = parse("metrics", case)
    assert isinstance(message, SessionSpec)
    return message


class Embedded:
    """A session of this process."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def step(self) -> float:
        staging = self.session.stage_arrays([NamedArray("w", DOWN)])
        return self.session.apply(staging, StepOptions()).learning_rate

    def report(self, value: float) -> tuple[Any, Any, bool]:
        report = self.session.report({"val_loss": value})
        return report.watch.plateau, report.watch.stopping, report.stopped

    def parameter(self) -> float:
        return float(self.session.values().array(0)[0])


class Served:
    """A session behind nothing but the generated stubs."""

    def __init__(self, client: Client, message: SessionSpec) -> None:
        self.sessions: SessionServiceStub = client.sessions
        request = pb.CreateSessionRequest(spec=message)
        request.parameters.add(name="w").value.CopyFrom(tensor(ZERO))
        self.name = self.sessions.CreateSession(request, timeout=30).session.name

    def step(self) -> float:
        request = pb.StepRequest(name=self.name)
        request.gradients.add(name="w").tensor.CopyFrom(tensor(DOWN))
        return self.sessions.Step(request, timeout=30).result.learning_rate

    def report(self, value: float) -> tuple[Any, Any, bool]:
        metrics = [pb.Metric(name="val_loss", value=value)]
        request = pb.ReportMetricsRequest(name=self.name, metrics=metrics)
        response = self.sessions.ReportMetrics(request, timeout=30)
        return response.reduce_on_plateau, response.early_stopping, response.stopped

    def parameter(self) -> float:
        responses = self.sessions.PullParameters(pb.PullParametersRequest(name=self.name), timeout=30)
        data = b"".join(response.chunk.data for response in responses)
        return float(np.frombuffer(data, "<f8")[0])


class Handled:
    """A session behind the Python client's handle."""

    def __init__(self, handle: optserve.SessionHandle) -> None:
        self.handle = handle

    def step(self) -> float:
        return self.handle.step({"w": DOWN}).learning_rate

    def report(self, value: float) -> tuple[Any, Any, bool]:
        report = self.handle.report({"val_loss": value})
        return report.reduce_on_plateau, report.early_stopping, report.stopped

    def parameter(self) -> float:
        return float(self.handle.pull()["w"][0])


@pytest.fixture(scope="module")
def python(server: RunningServer) -> Iterator[optserve.Client]:
    with optserve.connect(server.address, timeout=30) as client:
        yield client


@each_case
def test_session(name: str, case: Case) -> None:
    first = [ParameterInit("w", ZERO.dtype, ZERO.shape, ZERO)]
    verify(name, case, Embedded(Store(NumpyBackend()).create("", session_spec_from(message_of(case)), first)))


@each_case
def test_server(name: str, case: Case, client: Client) -> None:
    verify(name, case, Served(client, message_of(case)))


@each_case
def test_python_client(name: str, case: Case, python: optserve.Client) -> None:
    wanted: Any = spec.decode(message_of(case))
    listeners = {"reduce_on_plateau": wanted.reduce_on_plateau, "early_stopping": wanted.early_stopping}
    handle = python.create_session({"w": ZERO}, wanted.optimizer, **listeners)
    verify(name, case, Handled(handle))
    handle.delete()
