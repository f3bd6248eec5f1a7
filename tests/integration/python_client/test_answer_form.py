"""Answers that are written like earlier ones are read as the generated code reads them."""

from __future__ import annotations

import copy
import pickle
import struct
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from optserve import StepResult, errors
from optserve._engine.answers import Answers
from optserve.enums import ParameterPoint, StepOutcome
from optserve._codec.framing import varint
from optserve.parameters import Parameters
from optserve.v1 import session_service_pb2 as wire
from optserve.v1 import tensor_pb2

DOUBLES = ["learning_rate", "gradient_norm", "clipped_gradient_norm", "regularization_penalty"]
COUNTS = ["step", "non_finite_count", "staleness", "durable_step", "accumulated"]
UNKNOWN = [varint(900 << 3) + b"\x07", varint(901 << 3 | 2) + b"\x03abc", varint(902 << 3 | 5) + b"1234"]
WIDTHS = [
    [1, 2, 127],
    [1, 2, 127],
    [128, 129, 16383],
    [2**35, 2**34 + 3],
    [2**62, 2**62 + 7],
    [0, 1, 300, -1],
]
widths = st.sampled_from(WIDTHS)
doubles = st.floats() | st.just(0.0)


def nested(number, pieces):
    """A field that holds a message made of these pieces."""
    content = b"".join(pieces)
    return varint(number << 3 | 2) + varint(len(content)) + content


def lookup(contents, step, change, into):
    """Stands for shared memory: the values tell what was asked."""
    return Parameters({"asked": np.array([step, change])}, step=step, point=contents.point)


def told(result):
    """All of a result, in a form that compares bit by bit."""
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    bits = {name: struct.pack("<d", values.pop(name)) for name in DOUBLES}
    parameters = values.pop("parameters")
    arrays = [(name, a.dtype, a.shape, a.tobytes()) for name, a in parameters.items()]
    return values, bits, arrays, parameters.step, parameters.point, parameters.modified


def read(message):
    """An answer by the general way; None where it is none."""
    try:
        return told(Answers().read(iter([message]), lookup=lookup))
    except (errors.Internal, errors.Unavailable):
        return None


@st.composite
def pairs_of_answers(draw):
    """Two encoded answers of the same fields in the same order, with numbers of their own."""

    def both(strategy, written):
        return [written(draw(strategy)) for _ in range(2)]

    def count():
        return st.sampled_from(draw(widths))

    def scalar(name, strategy):
        return both(strategy, lambda value: wire.StepResult(**{name: value}).SerializeToString())

    names = draw(
        st.lists(st.sampled_from(COUNTS + DOUBLES + ["outcome", "replayed", "norm", "?"]), max_size=9)
    )
    result = []
    for name in names:
        if name in COUNTS:
            result.append(scalar(name, count()))
        elif name in DOUBLES:
            result.append(scalar(name, doubles))
        elif name == "norm":
            norm = wire.TensorNorm(name="w", norm=1.5)
            result.append([wire.StepResult(tensor_norms=[norm]).SerializeToString()] * 2)
        elif name == "?":
            result.append([draw(st.sampled_from(UNKNOWN))] * 2)
        else:
            result.append(scalar(name, st.integers(0, 1)))
    layout = [
        tensor_pb2.TensorLayout(name="w", dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[3]),
        tensor_pb2.TensorLayout(name="v", dtype=tensor_pb2.DATA_TYPE_FLOAT64, shape=[], byte_offset=12),
    ][: draw(st.integers(1, 2))]
    size = 12 if len(layout) == 1 else 20
    shared = draw(st.booleans())
    constant = wire.ParametersHeader(layout=layout, byte_count=size, shared=shared, point=1)
    header = [
        both(count(), lambda step: wire.ParametersHeader(step=step).SerializeToString()),
        [constant.SerializeToString()] * 2,
        both(count(), lambda n: wire.ParametersHeader(change=max(n, 0)).SerializeToString()),
    ]
    chunk = both(
        st.binary(min_size=size, max_size=size), lambda data: tensor_pb2.Chunk(data=data).SerializeToString()
    )
    pieces = [(1, result), (2, draw(st.permutations(header))), (3, [] if shared else [chunk])]
    late = (1, [scalar("outcome", st.integers(1, 2))])
    orders = [pieces, pieces[:1], pieces[1:], [*pieces[::-1], *pieces[:1]], [*pieces, late]]
    pieces = draw(st.sampled_from(orders))
    odd = draw(st.sampled_from([b"", *UNKNOWN]))
    return [odd + b"".join(nested(n, [p[i] for p in inner]) for n, inner in pieces) for i in range(2)]


@given(pairs_of_answers())
def test_an_answer_is_read_alike_or_left_to_the_general_way(pair):
    first, second = pair
    answers = Answers()
    try:
        answers.read(iter([first]), lookup=lookup)
    except (errors.Internal, errors.Unavailable):
        return
    for message in (first, second):
        again = answers.again(message, None, lookup)
        assert again is None or told(again) == read(message)


@given(pairs_of_answers(), st.data())
def test_a_changed_byte_is_seen_or_read_alike(pair, data):
    message = bytearray(pair[0])
    answers = Answers()
    try:
        answers.read(iter([pair[0]]), lookup=lookup)
    except (errors.Internal, errors.Unavailable):
        return
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    again = answers.again(bytes(message), None, lookup)
    assert again is None or told(again) == read(bytes(message))


def answer(step, rate=0.1, norm=2.0, shared=False, **more):
    layout = [tensor_pb2.TensorLayout(name="w", dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2, 1])]
    return wire.StepStreamResponse(
        result=wire.StepResult(step=step, outcome=1, learning_rate=rate, gradient_norm=norm, **more),
        parameters=wire.ParametersHeader(step=step, layout=layout, byte_count=8, shared=shared, change=step),
        chunk=None if shared else tensor_pb2.Chunk(data=np.array([step, 2], np.float32).tobytes()),
    ).SerializeToString()


@pytest.mark.parametrize("shared", [False, True])
@given(st.integers(128, 16383), doubles, doubles)
def test_answers_that_servers_send_are_read_the_short_way(shared, step, rate, norm):
    answers = Answers()
    answers.read(iter([answer(128, shared=shared)]), lookup=lookup)
    message = answer(step, rate or 1.0, norm or 1.0, shared)
    again = answers.again(message, None, lookup)
    assert again is not None
    assert told(again) == read(message)


@pytest.mark.parametrize(
    "other",
    [
        answer(3, accumulated=1),
        answer(200),
        answer(3, rate=0),
        answer(3)[:-1],
        answer(3) + UNKNOWN[0],
        answer(3).replace(b"w", b"v"),
        wire.StepStreamResponse(result=wire.StepResult(step=3)).SerializeToString(),
        b"",
    ],
)
def test_other_answers_are_not(other):
    answers = Answers()
    answers.read(iter([answer(2)]))
    assert answers.again(answer(3), None, None) is not None
    assert answers.again(other, None, None) is None


def test_what_follows_the_parameters_is_not_overlooked():
    answers = Answers()
    late = [wire.StepStreamResponse(result=wire.StepResult(outcome=n)).SerializeToString() for n in (1, 3)]
    assert answers.read(iter([answer(2) + late[0]])).outcome is StepOutcome.APPLIED
    again = answers.again(answer(3) + late[1], None, None)
    assert again is None or again.outcome is StepOutcome.SKIPPED


def test_what_is_read_is_the_caller_s_own():
    answers = Answers()
    results = [answers.read(iter([answer(2)]))]
    results += [answers.again(answer(step), None, None) for step in (3, 4)]
    for step, result in enumerate(results, 2):
        array = result.parameters["w"]
        assert (array[0], array.flags.writeable, array.flags.aligned) == (step, True, True)
        array[...] = 7
        assert not result.tensor_norms
        result.tensor_norms["mine"] = 1.0


def test_the_caller_s_arrays_are_filled():
    answers = Answers()
    answers.read(iter([answer(2)]))
    for into in ({"w": np.zeros((2, 1), np.float32)}, {"w": np.zeros((2, 1), ">f8")}):
        for step in (3, 4):
            result = answers.again(answer(step), into, None)
            assert result.parameters["w"] is into["w"]
            np.testing.assert_array_equal(into["w"], [[step], [2.0]])


@pytest.fixture
def unread():
    """Makes the same result anew, none of its fields read."""
    answers = Answers()
    answers.read(iter([answer(2, durable_step=1)]))
    return lambda: replace_parameters(answers.again(answer(3, durable_step=2), None, None))


def replace_parameters(result):
    result.parameters.clear()  # arrays have no equality of their own
    return result


def test_a_result_that_was_not_read_is_like_any_other(unread):
    expected = replace_parameters(Answers().read(iter([answer(3, durable_step=2)])))
    for see in (repr, asdict, copy.copy, copy.deepcopy, replace, lambda r: r):
        assert see(unread()) == see(expected)
    assert pickle.loads(pickle.dumps(unread())) == expected
    assert b"unread" not in pickle.dumps(unread())
    result = unread()
    assert (result.step, result.durable_step, result.outcome) == (3, 2, StepOutcome.APPLIED)
    assert isinstance(result, StepResult)
    assert not hasattr(unread(), "stepp")
    assert not hasattr(result, "__nothing__")
    with pytest.raises(AttributeError):
        result.step = 4


def test_the_step_of_parameters_is_theirs():
    """A result that is sent again comes with parameters of a later step."""
    message = wire.StepStreamResponse.FromString(answer(5))
    message.parameters.step, message.parameters.point = 9, ParameterPoint.AVERAGE
    answers = Answers()
    answers.read(iter([message.SerializeToString()]))
    message.parameters.step = 11
    again = answers.again(message.SerializeToString(), None, None)
    assert (again.step, again.parameters.step, again.parameters.point) == (5, 11, ParameterPoint.AVERAGE)


def test_garbage_is_no_answer():
    answers = Answers()
    with pytest.raises(errors.Internal) as caught:
        answers.read(iter([b"\xff\xff"]))
    assert isinstance(caught.value.__cause__, DecodeError)
    assert answers.again(b"\xff\xff", None, None) is None
