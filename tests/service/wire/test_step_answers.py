"""The beginnings of answers are the bytes that the generated code writes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_pb2 import PARAMETER_POINT_AVERAGE
from optserve_server.sessions.reading import Point, Reply
from optserve_server.sessions.result import StepOutcome, StepResult
from optserve_server.wire.sessions import reply_header_to, result_to
from optserve_server.wire.step_answers import Heads
from tests.service.sessions.support import session_of, spec_of

COUNTS = st.one_of(st.just(0), st.integers(0, 2**62))
NUMBERS = st.one_of(st.just(0.0), st.just(-0.0), st.floats())
RESULTS = st.builds(
    StepResult,
    step=COUNTS,
    outcome=st.sampled_from(list(StepOutcome)),
    learning_rate=NUMBERS,
    gradient_norm=NUMBERS,
    clipped_gradient_norm=NUMBERS,
    non_finite_count=COUNTS,
    staleness=COUNTS,
    regularization_penalty=NUMBERS,
    durable_step=COUNTS,
    accumulated=COUNTS,
    tensor_norms=st.lists(st.tuples(st.text("abc"), st.floats()), max_size=2).map(tuple),
    replayed=st.booleans(),
)
PLAIN = st.builds(
    StepResult,
    step=COUNTS,
    outcome=st.just(StepOutcome.APPLIED),
    learning_rate=NUMBERS,
    gradient_norm=NUMBERS,
    clipped_gradient_norm=NUMBERS,
)


@pytest.fixture(scope="module")
def reply() -> Reply:
    session = session_of(spec_of(), {f"t{i}": np.ones(3, np.float32) for i in range(40)})
    return Reply(Point.PARAMETERS, session.stage(None, None))


@given(result=st.one_of(RESULTS, PLAIN), step=COUNTS)
def test_a_head_is_what_the_generated_code_writes(reply: Reply, result: StepResult, step: int) -> None:
    reply.step = step
    expected = pb.StepStreamResponse(result=result_to(result), parameters=reply_header_to(reply))
    heads = Heads.of(reply)
    for _ in range(2):
        assert heads.encode(result, step) == expected.SerializeToString()


@given(st.one_of(RESULTS, PLAIN))
def test_one_without_values_likewise(result: StepResult) -> None:
    expected = pb.StepStreamResponse(result=result_to(result))
    assert Heads(None).encode(result, 0) == expected.SerializeToString()


@given(st.one_of(RESULTS, PLAIN), COUNTS, COUNTS)
def test_one_with_values_in_shared_memory_likewise(result: StepResult, step: int, change: int) -> None:
    header = pb.ParametersHeader(step=step, point=PARAMETER_POINT_AVERAGE, shared=True, change=change)
    expected = pb.StepStreamResponse(result=result_to(result), parameters=header)
    heads = Heads(pb.ParametersHeader(step=1, point=PARAMETER_POINT_AVERAGE, shared=True, change=2))
    assert heads.encode(result, step, change) == expected.SerializeToString()
