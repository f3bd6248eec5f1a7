"""Drivers beside the corpus: what is refused, what is drawn, and drivers that misbehave."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest

import optserve
from clients.python.conformance.stubs.driver_pb2 import DriverRequest
from tests.conformance import drivers
from tests.conformance.draws import NAMES, check_draw, draw, request_of
from tests.conformance.drivers import DRIVERS, Driver, running_driver
from tests.conformance.refusals import REFUSALS, check_refusal, training
from tests.conformance.tasks import FLOAT32, FLOAT64
from tests.support.server import RunningServer

SILENT = "import sys; sys.stdin.buffer.read()"
LEAVES = "import sys; sys.exit('nothing to say')"
LATE = "import sys; sys.stdin.buffer.read(); sys.exit(3)"


@pytest.fixture(scope="module")
def driver(server: RunningServer) -> Iterator[Driver]:
    with running_driver(DRIVERS["python"], server.address) as driver:
        yield driver


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_reach_the_caller(name: str, driver: Driver) -> None:
    check_refusal(driver, name)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_draws_are_the_services(name: str, dtype: np.dtype[np.generic], driver: Driver) -> None:
    check_draw(driver, name, dtype)


def test_draws_depend_on_the_seed(driver: Driver) -> None:
    """So that the check of draws could fail."""
    request = request_of("normal", FLOAT64)
    first = draw(request)
    request.train.seed += 1
    assert not np.array_equal(first, draw(request))


def test_a_call_that_a_driver_does_not_know(driver: Driver) -> None:
    assert driver.exchange(DriverRequest()).WhichOneof("outcome") == "unsupported"


def test_a_call_that_cannot_be_made_is_a_failure(driver: Driver) -> None:
    request = training([1.0, 1.0])
    request.train.spec.ClearField("optimizer")
    assert driver.exchange(request).WhichOneof("outcome") == "failure"


def test_no_session_stays(driver: Driver, server: RunningServer) -> None:
    with optserve.connect(server.address) as client:
        before = {session.name for session in client.sessions()}
        driver.exchange(training([1.0, 1.0]))
        driver.exchange(REFUSALS["nan"][0])
        assert {session.name for session in client.sessions()} == before


def test_a_driver_that_leaves_is_noticed() -> None:
    with (
        pytest.raises(RuntimeError, match="nothing to say"),
        running_driver([sys.executable, "-c", LEAVES], "nowhere") as driver,
    ):
        driver.exchange(DriverRequest())


def test_a_driver_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "ANSWER_SECONDS", 0.2)
    with (
        pytest.raises(RuntimeError, match="no answer"),
        running_driver([sys.executable, "-c", SILENT], "nowhere") as driver,
    ):
        driver.exchange(DriverRequest())


def test_a_status_at_the_end_is_noticed() -> None:
    with (
        pytest.raises(RuntimeError, match="status 3"),
        running_driver([sys.executable, "-c", LATE], "nowhere"),
    ):
        pass
