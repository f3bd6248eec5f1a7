"""The whole corpus through the Python client's driver, against a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.drivers import DRIVERS, Driver, running_driver
from tests.conformance.tasks import Task, tasks, verify
from tests.support.server import RunningServer

BY_ID = {task.id: task for task in tasks()}


@pytest.fixture(scope="module")
def driver(server: RunningServer) -> Iterator[Driver]:
    with running_driver(DRIVERS["python"], server.address) as driver:
        yield driver


@pytest.mark.parametrize("task", BY_ID.values(), ids=BY_ID.keys())
def test_python_client(task: Task, driver: Driver) -> None:
    verify(driver, task)
