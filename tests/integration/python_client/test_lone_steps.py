"""Steps that repeat the one before them send and give what other steps do."""

from __future__ import annotations

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optserve
from optserve import Pull, direct_call, optimizers
from optserve.data_call import DataCall
from optserve.direct_call import DirectCall
from optserve.layout import Layout, TensorInfo
from optserve.lone_step import LoneStep
from optserve.outline import Asked, Outline
from optserve.payload import Payload
from optserve.shared_steps import SharedOutline
from optserve.steps import StepMessages, Wishes, request
from optserve.v1 import session_service_pb2 as wire

LAYOUT = Layout([TensorInfo("w", np.dtype("f4"), (2, 3)), TensorInfo("b", np.dtype("f8"), (2,))])
GRADIENTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([0.5, -1])}
CALL = SimpleNamespace(cancel=lambda: None)
WORKER = "0123456789abcdef" * 2
askings = st.builds(
    Asked, st.none() | st.integers(0, 2**40), st.none() | st.floats(allow_nan=False), st.booleans()
)


def outline_of(gradients, memory=None, dtype=None):
    given = Payload.of_gradients(LAYOUT, gradients, dtype)
    options = Wishes(pull=Pull()).message(LAYOUT)
    message = request("sessions/a", options, given.uniform())
    if memory is not None:
        return SharedOutline(message, gradients, given, memory)
    return Outline(message, gradients, given.uniform())


def lone(outline, asked):
    return LoneStep(CALL, outline, WORKER, asked, 0, 1.0, None)


@given(st.integers(1, 2**40), st.integers(0, 300), askings, st.sampled_from([["w"], ["w", "b"], ["b"]]))
def test_messages_are_those_of_other_steps(first, more, asked, names):
    gradients = {name: GRADIENTS[name] for name in names}
    outline = outline_of(gradients)
    step = lone(outline, asked)
    for sequence in (first, first + 1, first + more):
        head = outline.head(WORKER, sequence, asked)
        [expected] = StepMessages(head, outline.payload(gradients, copy=False))
        assert step.message(gradients, sequence) == expected


@given(st.integers(1, 2**40), st.integers(0, 300), askings)
def test_messages_of_shared_memory_name_it_and_the_gradient(first, more, asked):
    memory = SimpleNamespace(region="r" * 64, gradients={n: np.zeros_like(a) for n, a in GRADIENTS.items()})
    step = lone(outline_of(GRADIENTS, memory), asked)
    for sequence in (first, first + more):
        message = wire.StepStreamRequest.FromString(step.message(GRADIENTS, sequence))
        assert (message.header.options.worker, message.header.options.sequence) == (WORKER, sequence)
        assert message.header.region == memory.region
        assert message.header.gradient_id
        assert not message.HasField("chunk")
        for name, array in GRADIENTS.items():
            np.testing.assert_array_equal(memory.gradients[name], array)


def test_a_sequence_that_is_used_again_stands_for_another_gradient():
    memory = SimpleNamespace(region="r", gradients={n: np.zeros_like(a) for n, a in GRADIENTS.items()})
    outline = outline_of(GRADIENTS, memory)
    messages = [lone(outline, Asked(None, None, False)).message(GRADIENTS, 5) for _ in range(2)]
    assert len({wire.StepStreamRequest.FromString(m).header.gradient_id for m in messages}) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"w": GRADIENTS["w"]},
        {**GRADIENTS, "w": GRADIENTS["w"].astype(np.float64)},
        {**GRADIENTS, "w": GRADIENTS["w"].T},
        {**GRADIENTS, "b": [1.0, 2.0]},
        {**GRADIENTS, "c": GRADIENTS["b"]},
        {"w": GRADIENTS["w"], "c": GRADIENTS["b"]},
    ],
)
def test_gradients_of_another_kind_are_left_to_others(other):
    memory = SimpleNamespace(region="r", gradients={n: np.zeros_like(a) for n, a in GRADIENTS.items()})
    for step in (lone(outline_of(GRADIENTS, m), Asked(None, None, False)) for m in (None, memory)):
        assert step.message(GRADIENTS, 1) is not None
        assert step.message(other, 2) is None
    assert not np.any(memory.gradients["b"] != GRADIENTS["b"])


def test_gradients_that_are_converted_or_lie_otherwise_are_like_others():
    gradients = {"w": np.asfortranarray(GRADIENTS["w"]), "b": np.arange(4.0)[::-2]}
    outline = outline_of(gradients, dtype=ml_dtypes.bfloat16)
    [expected] = StepMessages(
        outline.head(WORKER, 3, Asked(None, None, False)), outline.payload(gradients, True)
    )
    assert lone(outline, Asked(None, None, False)).message(gradients, 3) == expected


@pytest.mark.parametrize(
    "other", [(1, None, False), (None, 2.5, False), (None, None, True), (None, "x", False)]
)
def test_other_questions_are_left_to_others(other):
    step = lone(outline_of(GRADIENTS), Asked(None, None, False))
    assert step.asks(None, None, False)
    assert not step.asks(*other)
    scaled = lone(outline_of(GRADIENTS), Asked(None, 1024.0, False))
    assert scaled.asks(None, float("1024"), False)
    assert not scaled.asks(None, np.array([1024.0, 1]), False)


SKIP = optserve.NonFinitePolicy.SKIP
KINDS_OF_STEPS = [
    optserve.Gradient(),
    optserve.Gradient(accumulation_steps=3),
    optserve.Gradient(non_finite=SKIP, l2=0.1),
]


@pytest.fixture
def clients(server):
    """A client with data connections, and one without, by the kind of call that their streams have."""
    with (
        optserve.connect(server.address, timeout=20) as one,
        optserve.connect(server.address, timeout=20, data_connections=False) as other,
    ):
        yield {DataCall: one, DirectCall: other}


def alike(result, expected):
    assert result.parameters.keys() == expected.parameters.keys()
    for name, array in expected.parameters.items():
        assert result.parameters[name].tobytes() == array.tobytes()
        assert result.parameters[name].dtype == array.dtype
    assert result.parameters.step == expected.parameters.step
    assert result.parameters.point == expected.parameters.point
    for values in (result.parameters, expected.parameters):
        values.clear()  # arrays have no equality of their own
    assert repr(result) == repr(expected), "not a number equals no number"


@pytest.mark.parametrize("pull", [True, False, Pull(wire_dtype="bfloat16"), Pull(tensors=["b"])], ids=str)
@pytest.mark.parametrize("kind", KINDS_OF_STEPS, ids=str)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("call", [DataCall, DirectCall])
def test_results_are_those_of_submitted_steps(clients, pull, kind, shared, call):
    """Over what changes the form of an answer: numbers that grow, norms of 0, skipped steps."""
    client = clients[call]
    start = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2)}
    one, two = (client.create_session(start, optimizers.Adam(), gradient=kind) for _ in range(2))
    rng = np.random.default_rng(0)
    with (
        one.stream(pull=pull, shared_memory=shared) as alone,
        two.stream(pull=pull, shared_memory=False) as others,
    ):
        for i in range(140):
            scale = {7: 0.0, 9: np.nan if kind.non_finite is SKIP else 1.0}.get(i % 20, 1.0)
            given = {n: (scale * rng.standard_normal(a.shape)).astype(a.dtype) for n, a in start.items()}
            alike(alone.step(given), others.submit(given).result())
            assert isinstance(alone._line._call, call)
    for session in (one, two):
        session.delete()


def noted(stream, name):
    """Every call of a method from here on."""
    taken, calls = getattr(stream, name), []
    setattr(stream, name, lambda *args, **options: [calls.append(args), taken(*args, **options)][1])
    return calls


@pytest.mark.parametrize("call", [DataCall, DirectCall])
def test_most_steps_take_the_short_way(clients, call):
    assert direct_call.available()
    client = clients[call]
    session = client.create_session({"w": np.zeros(3)}, optimizers.SGD())
    for shared in (True, False):
        with session.stream(pull=True, shared_memory=shared) as stream:
            stream.step({"w": np.ones(3)})
            submitted, carried_on = noted(stream, "_submit"), noted(stream, "_carry_on")
            for _ in range(150):
                stream.step({"w": np.ones(3)})
            assert not submitted
            assert len(carried_on) <= 2, "once for each form of an answer"
            assert isinstance(stream._line._call, call)
    session.delete()
