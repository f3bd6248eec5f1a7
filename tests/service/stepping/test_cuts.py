"""An element-wise rule gives the same bits however its parameters are cut into tensors and arenas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optserve_server.optimizers import REGISTRY
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.groupwise import GroupwiseRule
from optserve_server.optimizers.tensorwise import TensorwiseRule
from optserve_server.spec.session_spec import GradientSpec, ParameterGroup
from tests.service.sessions.support import parameters, session_of, spec_of, step

SIZE = 60
RULES = [
    rule
    for rule in REGISTRY.values()
    if issubclass(rule, ElementwiseRule) and not issubclass(rule, TensorwiseRule | GroupwiseRule)
]
START = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
GRADIENTS = np.random.default_rng(1).standard_normal((3, SIZE)).astype(np.float32)


def pieces(array: np.ndarray, cuts: list[int]) -> dict[str, np.ndarray]:
    bounds = [0, *sorted(set(cuts)), SIZE]
    return {f"t{i}": array[a:b] for i, (a, b) in enumerate(itertools.pairwise(bounds))}


def take_steps(rule: ElementwiseRule, cuts: list[int], in_group: set[int], reordered: bool) -> bytes:
    """The parameters after three steps, in their order, cut into tensors of which some form a group."""
    start = pieces(START, cuts)
    members = tuple(name for i, name in enumerate(start) if i in in_group)
    groups = (ParameterGroup(name="g", tensors=members),) if members else ()
    guards = GradientSpec(l1=0.01, l2=0.02)
    session = session_of(spec_of(rule, groups=groups, gradient=guards), start)
    for g in GRADIENTS:
        given_gradients = pieces(g, cuts)
        if reordered:
            given_gradients = dict(reversed(given_gradients.items()))
        step(session, given_gradients)
    found = parameters(session)
    return b"".join(found[name].tobytes() for name in start)


@pytest.mark.parametrize("cls", RULES, ids=lambda cls: cls.name)
@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(st.integers(1, SIZE - 1), max_size=8),
    in_group=st.sets(st.integers(0, 8)),
    reordered=st.booleans(),
)
def test_cuts_groups_and_order_do_not_matter(
    cls: type[ElementwiseRule], cuts: list[int], in_group: set[int], reordered: bool
) -> None:
    assert take_steps(cls(), cuts, in_group, reordered) == take_steps(cls(), [], set(), False)
