"""The whole corpus through the Python client's driver, against a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance import corpus
from tests.conformance.corpus import VectorFile
from tests.conformance.drivers import DRIVERS, running_driver
from tests.conformance.table import Column, fill
from tests.support.server import RunningServer

FILES = corpus.files()


@pytest.fixture(scope="module")
def column(server: RunningServer) -> Iterator[Column]:
    with running_driver(DRIVERS["python"], server.address) as driver:
        yield Column("python client", driver)


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_python_client(file: VectorFile, column: Column) -> None:
    assert fill(column, file).gaps == []
