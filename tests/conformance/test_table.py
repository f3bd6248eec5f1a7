"""The table notices every kind of gap."""

from __future__ import annotations

import dataclasses

import pytest

from optserve_server.arrays.numpy_blocked import NumpyBackend
from tests.conformance import __main__ as command
from tests.conformance import corpus, names
from tests.conformance.corpus import VectorFile
from tests.conformance.embedded import Embedded
from tests.conformance.oracled import Oracle
from tests.conformance.table import Column, fill, line, lines
from tests.conformance.tasks import FLOAT64, Answer, Task

ORACLE = Oracle()
COLUMNS = [Column("oracle", ORACLE, float64_only=True), Column("numpy", Embedded(NumpyBackend()))]
FILES = corpus.files()


@pytest.fixture
def adam() -> VectorFile:
    return corpus.load(corpus.VECTORS / "optimizers" / "adam.json")


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_oracle(file: VectorFile) -> None:
    assert fill(COLUMNS[0], file).gaps == []


def test_a_sound_file_has_no_gap(adam: VectorFile) -> None:
    found = line(COLUMNS, adam, known=True)
    assert found.gaps == []
    assert found.count == len(adam.cases) > 0
    for cell in found.cells.values():
        assert cell.cases == {case.name for case in adam.cases}
    assert set(found.cells["oracle"].exact) == {"float64"}
    assert set(found.cells["numpy"].exact) == {"float32", "float64"}
    assert 0 < found.cells["numpy"].exact["float32"] < 100


def test_a_wrong_value_is_a_gap_of_every_column(adam: VectorFile) -> None:
    first, *others = adam.cases
    path = [[*row] for row in first.expected["parameters"]]
    path[-1][0] *= 1 + 1e-5
    wrong = dataclasses.replace(first, expected={"parameters": path})
    found = line(COLUMNS, dataclasses.replace(adam, cases=(wrong, *others)), known=True)
    assert [gap.split(": ")[0] for gap in found.gaps] == ["oracle", "numpy", "numpy"]
    assert all(first.name not in cell.cases for cell in found.cells.values())
    assert all("!" in cell.text() for cell in found.cells.values())


def test_a_case_that_no_source_has_is_a_gap(adam: VectorFile) -> None:
    stranger = dataclasses.replace(adam.cases[0], name="stranger")
    found = line(COLUMNS, dataclasses.replace(adam, cases=(stranger,)), known=True)
    assert ["no source has this case" in gap for gap in found.gaps] == [True]


def test_a_runner_that_cannot_is_a_gap(adam: VectorFile) -> None:
    def cannot(task: Task) -> Answer:
        raise KeyError(task.family)

    found = line([Column("new client", cannot)], adam, known=True)
    assert len(found.gaps) == 2 * len(adam.cases)
    assert not found.cells["new client"].cases


def test_a_part_left_out_is_a_gap(adam: VectorFile) -> None:
    assert line([Column("lazy", lambda task: {})], adam, known=True).gaps


def test_another_type_is_a_gap() -> None:
    file = corpus.load(corpus.VECTORS / "activations" / "relu.json")
    whole = Embedded(NumpyBackend())

    def double(task: Task) -> Answer:
        return whole(dataclasses.replace(task, dtype=FLOAT64))

    gaps = line([Column("double", double)], file, known=True).gaps
    assert len(gaps) == len(file.cases)
    assert all("float64 where float32" in gap for gap in gaps)


OTHER = {"SPARSE_UPDATE_LAZY": "SPARSE_UPDATE_DENSE", "SPARSE_UPDATE_DENSE": "SPARSE_UPDATE_LAZY"}
SPARSE = {case.name: case for case in FILES["gradient-sparse"].cases}
REFUSED_LAZY = {"keras_accumulated", "keras_averaged"}
SAME_EITHER_WAY = {"torch_sgd", "torch_adagrad"}
"""Where a gradient of 0 moves nothing."""


@pytest.mark.parametrize("name", sorted(SPARSE.keys() - SAME_EITHER_WAY))
def test_other_rows_that_wrongly_rest_or_move_are_a_gap(name: str) -> None:
    case = SPARSE[name]
    lazy = case.spec["optimizer"]["convention"] == "CONVENTION_TORCH"
    settings = case.spec.get("gradient", {})
    meant = settings.get("sparse", "SPARSE_UPDATE_LAZY" if lazy else "SPARSE_UPDATE_DENSE")
    spec = {**case.spec, "gradient": {**settings, "sparse": OTHER[meant]}}
    file = VectorFile("gradient", "sparse", (dataclasses.replace(case, spec=spec),))
    gaps = line(COLUMNS[1:], file, known=True).gaps
    assert len(gaps) == 2
    told = "cannot move alone" if name in REFUSED_LAZY else "is off by"
    assert all(told in gap for gap in gaps)


def test_a_name_without_vectors_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    before = names.list_recorded
    monkeypatch.setattr(names, "list_recorded", lambda family: before(family) - {"tanh"})
    (missing,) = [found for found in lines([], ["activations"]) if found.gaps]
    assert (missing.name, missing.count) == ("tanh", 0)
    assert command.summary([missing], []) == missing.gaps != []


def test_vectors_without_a_name_are_a_gap(adam: VectorFile) -> None:
    assert line([], adam, known=False).gaps


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(SystemExit):
        command.main(["astrology"])
