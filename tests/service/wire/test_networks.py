"""Described networks over the wire: whatever is sent, an answer or a refusal that names a field."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from optserve.v1.function_service_pb2 import EstimateComplexityRequest
from optserve.v1.network_spec_pb2 import LayerSpec, NetworkSpec
from optserve.v1.tensor_pb2 import DATA_TYPE_BFLOAT16, DATA_TYPE_INT32
from optserve_server.complexity.network import MAX_LAYERS, estimate_complexity
from optserve_server.errors import DomainError, Reason
from optserve_server.wire.specifications.networks import (
    batch_size_from,
    element_type_from,
    estimate_to,
    network_from,
)
from tests.conformance.corpus import Case, cases
from tests.service.wire.support import outcome

KINDS = [field.name for field in LayerSpec.DESCRIPTOR.oneofs_by_name["layer"].fields]
SMALL_NUMBERS = st.one_of(st.integers(0, 8), st.sampled_from([-1, 10**9, 10**9 + 1, 2**31 - 1, -(2**31)]))
NUMBERS = st.one_of(SMALL_NUMBERS, st.sampled_from([2**63 - 1, -(2**63)]))


def lenet() -> dict[str, Any]:
    return {
        "input_shape": [28, 28, 1],
        "layers": [
            {"convolution": {"filters": 6, "kernel": [5, 5], "padding": "LAYER_PADDING_SAME"}},
            {"name": "halved", "pooling": {"window": [2, 2], "form": "POOLING_FORM_AVERAGE"}},
            {"flatten": {}},
            {"dense": {"units": 10}},
        ],
    }


def parse(description: dict[str, Any]) -> NetworkSpec:
    return json_format.ParseDict(description, NetworkSpec())


def test_the_answer_states_every_layer_and_field() -> None:
    network = network_from(parse(lenet()))
    response = estimate_to(estimate_complexity(network, 2, 4, math.prod), network)
    assert [layer.name for layer in response.layers] == ["convolution_0", "halved", "flatten_2", "dense_3"]
    assert [list(layer.output_shape) for layer in response.layers] == [[28, 28, 6], [14, 14, 6], [1176], [10]]
    assert response.layers[1].complexity.flops == 2 * 1176 * 4
    assert response.total.trainable_parameters == 156 + 11_770
    assert response.optimizer_state_bytes == 4 * response.total.trainable_parameters
    echo = response.network.layers[0].convolution
    assert (list(echo.strides), list(echo.dilation), echo.groups, echo.use_bias) == ([1, 1], [1, 1], 1, True)
    again = network_from(response.network)
    assert estimate_to(estimate_complexity(again, 2, 4, math.prod), again) == response


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in cases("layers")])
def test_the_echo_of_a_layer_asks_for_the_same(case: Case) -> None:
    network = network_from(parse({"input_shape": case.inputs["shape"], "layers": [case.spec]}))
    echo = estimate_to(estimate_complexity(network, 1, 4), network).network
    assert [named.layer for named in network_from(echo).layers] == [named.layer for named in network.layers]


WRONG: list[tuple[dict[str, Any], Reason, str]] = [
    ({}, Reason.FIELD_REQUIRED, "layers"),
    ({"layers": [{}]}, Reason.FIELD_REQUIRED, "layers[0]"),
    ({"layers": [{"flatten": {}}, {"dense": {}}]}, Reason.FIELD_REQUIRED, "layers[1].dense.units"),
    ({"layers": [{"convolution": {"filters": 1}}]}, Reason.FIELD_REQUIRED, "layers[0].convolution.kernel"),
    ({"layers": [{"convolution": {"filters": 1, "kernel": [0]}}]}, Reason.OUT_OF_RANGE,
     "layers[0].convolution.kernel[0]"),
    ({"layers": [{"pooling": {"window": [1], "padding": 7}}]}, Reason.UNSUPPORTED_VALUE,
     "layers[0].pooling.padding"),
    ({"layers": [{"lstm": {"units": 0}}]}, Reason.OUT_OF_RANGE, "layers[0].lstm.units"),
    ({"layers": [{"flatten": {}}], "input_shape": [3, -1]}, Reason.OUT_OF_RANGE, "input_shape[1]"),
    ({"layers": [{"name": "x" * 2000, "flatten": {}}]}, Reason.LIMIT_EXCEEDED, "layers[0]"),
    ({"layers": [{"pooling": {"window": [1] * 10**6}}]}, Reason.LIMIT_EXCEEDED, "layers[0]"),
    ({"layers": [{"flatten": {}}], "input_shape": [1] * 10**6}, Reason.OUT_OF_RANGE, "input_shape"),
    ({"layers": [{}] * (MAX_LAYERS + 1)}, Reason.LIMIT_EXCEEDED, "layers"),
]  # fmt: skip


@pytest.mark.parametrize(("description", "reason", "field"), WRONG)
def test_what_is_wrong_is_told_by_its_path(description: dict[str, Any], reason: Reason, field: str) -> None:
    with pytest.raises(DomainError) as caught:
        network_from(parse(description))
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_a_batch_and_an_element_type_have_defaults_and_limits() -> None:
    assert batch_size_from(EstimateComplexityRequest()) == 1
    assert batch_size_from(EstimateComplexityRequest(batch_size=64)) == 64
    for size in (-1, 10**9 + 1):
        with pytest.raises(DomainError) as caught:
            batch_size_from(EstimateComplexityRequest(batch_size=size))
        assert (caught.value.reason, caught.value.field) == (Reason.OUT_OF_RANGE, "batch_size")
    assert element_type_from(EstimateComplexityRequest()).itemsize == 4
    assert element_type_from(EstimateComplexityRequest(dtype=DATA_TYPE_BFLOAT16)).itemsize == 2
    with pytest.raises(DomainError) as caught:
        element_type_from(EstimateComplexityRequest(dtype=DATA_TYPE_INT32))
    assert (caught.value.reason, caught.value.field) == (Reason.DTYPE_MISMATCH, "dtype")


@st.composite
def anything(draw: st.DrawFn) -> NetworkSpec:
    """Up to five layers with any numbers, most of which make no sense."""
    message = NetworkSpec(input_shape=draw(st.lists(NUMBERS, max_size=4)))
    for kind in draw(st.lists(st.sampled_from(KINDS), max_size=5)):
        layer = getattr(message.layers.add(), kind)
        layer.SetInParent()
        for field in layer.DESCRIPTOR.fields:
            put(layer, field, draw(values(field)))
    return message


def values(field: Any) -> st.SearchStrategy[list[int]]:
    """One value or none, or several where several may be."""
    numbers = SMALL_NUMBERS if field.cpp_type == field.CPPTYPE_INT32 else NUMBERS
    if field.enum_type is not None:
        numbers = st.integers(0, 3)
    if field.cpp_type == field.CPPTYPE_BOOL:
        numbers = st.integers(0, 1)
    if field.cpp_type == field.CPPTYPE_INT32:
        numbers = NUMBERS.filter(lambda number: -(1 << 31) <= number < 1 << 31)
    return st.lists(numbers, max_size=4 if field.is_repeated else 1)


def put(message: Any, field: Any, found: list[int]) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(found)
        return
    for value in found:
        setattr(message, field.name, bool(value) if field.cpp_type == field.CPPTYPE_BOOL else value)


@given(message=anything())
@settings(max_examples=300, deadline=None)
def test_whatever_is_sent_is_answered_or_refused_by_its_path(message: NetworkSpec) -> None:
    def answer() -> Any:
        network = network_from(message)
        return estimate_to(
            estimate_complexity(network, 10**9, 8, lambda tensor: 3 * math.prod(tensor)), network
        )

    found = outcome(answer)
    if isinstance(found, DomainError):
        assert (found.field or "").startswith(("layers", "input_shape"))
    else:
        assert len(found.layers) == len(message.layers)
