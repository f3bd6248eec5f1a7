"""The corpus on the service's own code and each executor, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from optserve_server.arrays.backend_selection import select_backend
from tests.conformance import corpus
from tests.conformance.corpus import VectorFile
from tests.conformance.embedded import Embedded
from tests.conformance.table import Column, fill

FILES = corpus.files()


def pairs() -> list[Any]:
    """Each file on each executor."""
    found = []
    for backend in ("numpy", "numba", "cupy"):
        for name, file in FILES.items():
            marks = [pytest.mark.gpu] if backend == "cupy" else []
            if name not in corpus.ONE_OF_EACH:
                marks.append(pytest.mark.slow)
            found.append(pytest.param(backend, file, id=f"{backend}-{name}", marks=marks))
    return found


@pytest.fixture(scope="module")
def column(request: pytest.FixtureRequest) -> Column:
    return Column(request.param, Embedded(select_backend(request.param)))


@pytest.mark.parametrize(("column", "file"), pairs(), indirect=["column"])
def test_embedded(file: VectorFile, column: Column) -> None:
    assert fill(column, file).gaps == []
