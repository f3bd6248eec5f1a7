"""Every layer's vectors on the service's own counts, and proofs that they tell layers apart."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any

import pytest

from optserve_server.complexity import REGISTRY
from optserve_server.complexity.base import Layer
from optserve_server.complexity.network import NamedLayer, Network, estimate_complexity
from optserve_server.errors import DomainError
from optserve_server.hyperparameters import declarations
from tests.conformance import corpus
from tests.conformance.corpus import Case, cases
from tests.conformance.specs import resolve

PROPERTIES = [(name, field) for name in REGISTRY for field in declarations(REGISTRY[name])]


def answer(layer: Layer, case: Case) -> dict[str, Any]:
    network = Network((NamedLayer("", layer),), tuple(case.inputs["shape"]))
    found = estimate_complexity(network, batch_size=1, element_size=4).layers[0]
    return {
        "output_shape": list(found.output_shape),
        "trainable": found.complexity.trainable_parameters,
        "non_trainable": found.complexity.non_trainable_parameters,
        "multiply_adds": found.complexity.multiply_adds,
        "flops": found.complexity.flops,
    }


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in cases("layers")])
def test_layer(case: Case) -> None:
    assert answer(resolve(REGISTRY, case.spec), case) == case.expected


def file_cases(name: str) -> tuple[Case, ...]:
    return corpus.load(corpus.VECTORS / "layers" / f"{name}.json").cases


@pytest.mark.parametrize("name", list(REGISTRY))
def test_every_property_is_stated_somewhere(name: str) -> None:
    stated = {field for case in file_cases(name) for field in case.spec[name]}
    assert stated == set(declarations(REGISTRY[name]))


def alter(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, Enum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, tuple):
        return (value[0] + 1, *value[1:])
    return not value if isinstance(value, bool) else value + 1


@pytest.mark.parametrize(("name", "field"), PROPERTIES)
def test_a_wrong_property_is_noticed(name: str, field: str) -> None:
    """Some case fails when the layer has another value there; a refusal is no proof."""

    def fails(case: Case) -> bool:
        layer = resolve(REGISTRY, case.spec)
        try:
            return answer(dataclasses.replace(layer, **{field: alter(getattr(layer, field))}), case) != (
                case.expected
            )
        except DomainError:
            return False

    assert any(map(fails, file_cases(name)))
