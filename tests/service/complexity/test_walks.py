"""Random layers on random inputs: the formulas against a walk, product by product."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optserve_server.complexity import REGISTRY
from optserve_server.complexity.network import NamedLayer, Network, estimate_complexity
from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Convention, field_types
from tests.conformance.oracle import layers as oracle
from tests.conformance.specs import prefix

SMALL = st.integers(1, 4)
EXPECTED = (Reason.CONFLICTING_FIELDS, Reason.SHAPE_MISMATCH)


@st.composite
def draw_layer(draw: st.DrawFn, name: str) -> tuple[tuple[int, ...], dict[str, Any]]:
    """An input shape and a layer's properties."""
    sequence = name in {"simple_rnn", "lstm", "gru", "multi_head_attention"}
    window = draw(st.lists(SMALL, min_size=1, max_size=3))
    ranks = {"convolution": len(window) + 1, "pooling": len(window) + 1}
    rank = 2 if sequence else ranks.get(name) or draw(st.integers(2, 4))
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=rank, max_size=rank)))
    fields = {
        field: draw(values(kind, field, len(window)))
        for field, kind in field_types(REGISTRY[name]).items()
        if field not in ("kernel", "window")
    }
    if name in ranks:
        fields["kernel" if name == "convolution" else "window"] = tuple(window)
    return shape, fields


def values(kind: Any, field: str, length: int) -> st.SearchStrategy[Any]:
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.sampled_from([1, 1, 2, 3, 4] if field == "groups" else [1, 2, 3, 4])
    if kind == tuple[int, ...]:
        return st.lists(SMALL, min_size=length, max_size=length).map(tuple)
    return st.sampled_from(kind)


def in_json(value: Any) -> Any:
    """A property as the corpus writes it."""
    return prefix(type(value)) + value.name if hasattr(value, "name") else value


@pytest.mark.parametrize("name", list(REGISTRY))
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_layer_takes_what_a_walk_through_it_takes(name: str, data: st.DataObject) -> None:
    shape, fields = data.draw(draw_layer(name))
    try:
        layer = REGISTRY[name].resolve(fields, Convention.KERAS)
        (found,) = estimate_complexity(Network((NamedLayer("", layer),), shape), 1, 1).layers
    except DomainError as error:
        # Groups that do not divide, or a window larger than the input: both can be drawn.
        if name in ("convolution", "pooling") and error.reason in EXPECTED:
            return
        raise
    walked = oracle.count(name, {field: in_json(value) for field, value in fields.items()}, shape)
    assert {
        "output_shape": list(found.output_shape),
        "trainable": found.complexity.trainable_parameters,
        "non_trainable": found.complexity.non_trainable_parameters,
        "multiply_adds": found.complexity.multiply_adds,
        "flops": found.complexity.flops,
    } == walked
