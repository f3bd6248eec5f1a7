"""The whole corpus on the service's own code and each executor, without a server."""

from __future__ import annotations

import pytest

from optserve_server.arrays.select import select
from tests.conformance import corpus
from tests.conformance.corpus import VectorFile
from tests.conformance.embedded import Embedded
from tests.conformance.table import Column, fill

FILES = corpus.files()
BACKENDS = ["numpy", "numba", pytest.param("cupy", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=BACKENDS)
def column(request: pytest.FixtureRequest) -> Column:
    return Column(request.param, Embedded(select(request.param)))


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_embedded(file: VectorFile, column: Column) -> None:
    assert fill(column, file).gaps == []
