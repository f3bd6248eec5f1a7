"""What callers may pass for an argument, and what the error says when they may not."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest

import optserve
from optserve import (
    ParameterPoint,
    activations,
    coercion,
    layers,
    optimizers,
    schedules,
)
from optserve.optimizers import SGD

NAN = float("nan")
ONE = {"w": np.ones(3)}


class Recording:
    """Behaves as a tensor of PyTorch: NumPy reads it through detach and cpu, and bfloat16 through float."""

    def __init__(self, values, bfloat16=False):
        self.values, self.bfloat16 = values, bfloat16

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def detach(self):
        return self

    def cpu(self):
        return self if self.bfloat16 else self.values

    def float(self):
        return self.values.astype(np.float32)


def test_parameters_may_be_pairs_and_the_optimizer_a_name(client):
    pairs = ((name, np.full(2, value)) for name, value in (("a", 1.0), ("b", 2.0)))
    with client.create_session(pairs, "sgd") as session:
        assert session.spec.optimizer.learning_rate == 0.01
        values = session.pull(name for name in ("a", "b"))
        np.testing.assert_array_equal(values["b"], [2, 2])
        session.push([("a", np.zeros(2))])
        session.step([("a", np.ones(2)), ("b", np.ones(2))])
        np.testing.assert_allclose(session.pull("a")["a"], [-0.01, -0.01])
        assert list(session.pull("a")) == ["a"]
    session.delete()


def test_a_tensor_that_records_gradients_is_read(client):
    session = client.create_session([("w", Recording(np.ones(2)))], SGD)
    np.testing.assert_array_equal(session.pull()["w"], [1, 1])
    session.step({"w": Recording(np.ones(2), bfloat16=True)})
    np.testing.assert_array_equal(session.pull()["w"], [0.99, 0.99])
    session.delete()


@pytest.mark.parametrize("shared", [True, False])
def test_streams_take_pairs_and_numbers_of_numpy(session, shared):
    gradient = {"w": np.ones(3), "b": np.ones((2, 2), np.float32)}
    start = session.pull()
    into = {name: np.empty_like(array) for name, array in start.items()}
    with session.stream(
        pull="parameters", shared_memory=shared, timeout=math.inf, window=np.int64(2)
    ) as stream:
        stream.step(iter(gradient.items()), expected_step=np.int64(0), timeout=math.inf)
        stream.step(gradient.items(), expected_step=1.0, loss_scale=np.float32(1), into=into)
        stream.submit(gradient.items(), loss_scale=1).result(timeout=math.inf)
        np.testing.assert_array_equal(into["w"], start["w"] - 2)
        for wrong in ({"expected_step": -1}, {"expected_step": 1.5}, {"timeout": 0}):
            with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
                stream.step(gradient, **wrong)
        with pytest.raises(TypeError, match="gradients is 3, but must be a dict by name"):
            stream.step(3)
    assert session.get().step == 3


def test_a_point_may_be_named(client):
    nesterov = optimizers.Nesterov(form="lookahead")
    session = client.create_session({"w": np.ones(2)}, nesterov)
    assert session.pull(point="lookahead").point is ParameterPoint.LOOKAHEAD
    result = session.step({"w": np.ones(2)}, pull="lookahead")
    assert result.parameters.point is ParameterPoint.LOOKAHEAD
    assert session.step({"w": np.ones(2)}, pull="float32").parameters["w"].dtype == np.float32
    with pytest.raises(
        TypeError, match=r"pull is 'middle', but must be True, False, a Pull, a point \(PARAM"
    ):
        session.step({"w": np.ones(2)}, pull="middle")
    session.delete()


def test_functions_take_names_classes_and_arrays_of_steps(client):
    schedule = schedules.StepDecay(1.0, 2, gamma=0.5)
    for steps in (np.array([0, 2]), (n for n in (0, 2)), [np.int32(0), 2.0]):
        np.testing.assert_array_equal(client.evaluate_schedule(schedule, steps), [1, 0.5])
    np.testing.assert_array_equal(client.evaluate_schedule(schedule, np.int64(2)), [0.5])
    np.testing.assert_array_equal(client.activation("relu", [-1.0, 1.0]), [0, 1])
    np.testing.assert_array_equal(client.activation(activations.ReLU, [-1.0, 1.0]), [0, 1])
    np.testing.assert_array_equal(client.activation_gradient("relu", [-1.0, 1.0], [1.0, 1.0]), [0, 1])
    assert client.loss("mse", [[1.0, 3.0]], [[0.0, 0.0]]).value == 5
    assert client.loss("MeanSquaredError", [[1.0, 3.0]], [[0.0, 0.0]]).value == 5
    network = layers.Network([layers.Dense(3)], input_shape=4)
    assert client.estimate_complexity(network, optimizer="adam").optimizer_state_bytes == 2 * 15 * 4


def test_metrics_may_be_pairs_of_numbers_of_numpy(client):
    stopping = optserve.EarlyStopping(patience=3)
    session = client.create_session({"w": np.ones(2)}, SGD(), early_stopping=stopping)
    report = session.report([("val_loss", np.float32(0.5)), ("lr", np.array(0.1))])
    assert report.early_stopping is not None
    assert report.early_stopping.best_value == 0.5
    with pytest.raises(TypeError, match=r"metrics\['val_loss'\] is 'low', but must be a number"):
        session.report({"val_loss": "low"})
    session.delete()


WRONG_CALLS = [
    (lambda c, s: c.create_session({0: np.ones(2)}, "sgd"), TypeError, "a name in parameters is 0, but must"),
    (lambda c, s: c.create_session(np.ones(2), "sgd"), TypeError, "parameters[0] is "),
    (
        lambda c, s: c.create_session(np.float64(1), "sgd"),
        TypeError,
        "but must be a dict by name, or an iter",
    ),
    (
        lambda c, s: c.create_session({"w", "v"}, "sgd"),
        TypeError,
        "but must be a dict by name, or an iterable",
    ),
    (lambda c, s: c.create_session([("w", [1.0]), ("w", [2.0])], "sgd"), ValueError, "two values for 'w'"),
    (lambda c, s: c.create_session({"w": object()}, "sgd"), TypeError, "parameter 'w' "),
    (
        lambda c, s: c.create_session({"w": [[1.0], [1.0, 2.0]]}, "sgd"),
        TypeError,
        "parameter 'w' is [[1.0], ",
    ),
    (lambda c, s: c.create_session({"w": np.ones(2, "i4")}, "sgd"), TypeError, "has element type int32"),
    (
        lambda c, s: c.create_session({"w": np.ones(2)}, "sgdd"),
        ValueError,
        "optimizer is 'sgdd', but must be",
    ),
    (
        lambda c, s: c.create_session({"w": np.ones(2)}, "sgd", session_id=7),
        TypeError,
        "session_id is 7, but",
    ),
    (
        lambda c, s: c.create_session({"w": np.ones(2)}, "sgd", seed=0.5),
        ValueError,
        "seed is 0.5, but must be",
    ),
    (
        lambda c, s: c.create_session({"w": np.ones(2)}, "sgd", groups=3),
        TypeError,
        "groups is 3, but must be",
    ),
    (lambda c, s: c.session(7), TypeError, "name is 7, but must be a session's name, a SessionHandle"),
    (lambda c, s: c.session(f"{s.name}/snapshots/3"), ValueError, "not that of a snapshot"),
    (
        lambda c, s: next(c.sessions(page_size=2**31)),
        ValueError,
        "page_size is 2147483648, but must be a who",
    ),
    (lambda c, s: c.health(3), TypeError, "service is 3, but must be a string"),
    (lambda c, s: c.evaluate_schedule(SGD(), 3), TypeError, "schedule is SGD(convention="),
    (
        lambda c, s: c.evaluate_schedule(schedules.StepDecay(1, 2), [0.5]),
        ValueError,
        "steps[0] is 0.5, but m",
    ),
    (lambda c, s: c.evaluate_schedule(schedules.StepDecay(1, 2), 0.5), ValueError, "steps is 0.5, but must"),
    (lambda c, s: c.loss("mean", [1.0], [1.0]), ValueError, "loss is 'mean', but must be one of mean_squar"),
    (lambda c, s: c.loss("mse", None, [1.0]), TypeError, "prediction has element type object"),
    (lambda c, s: c.activation("maxout", [1.0]), TypeError, "'maxout', which needs more: Maxout(group_size="),
    (lambda c, s: c.estimate_complexity("dense"), TypeError, "network is 'dense', but must be a Network"),
    (
        lambda c, s: c.estimate_complexity(layers.Network([]), batch_size="2"),
        TypeError,
        "batch_size is '2', but must be a whole number",
    ),
    (
        lambda c, s: c.estimate_complexity(layers.Network([]), dtype="float7"),
        TypeError,
        "dtype is 'float7', but must be one of the element types float16, bfloat16, float32, float64",
    ),
    (lambda c, s: s.update("adam"), TypeError, "spec is 'adam', but must be a SessionSpec, or a dict of its"),
    (lambda c, s: s.update(s.spec, expected_step=-1), ValueError, "expected_step is -1, but must be a step"),
    (lambda c, s: s.step(ONE, expected_step=-1), ValueError, "expected_step is -1, but must be a step"),
    (lambda c, s: s.step(ONE, loss_scale="1"), TypeError, "loss_scale is '1', but must be a number"),
    (lambda c, s: s.step(ONE, wire_dtype="float7"), TypeError, "wire_dtype is 'float7', but must be one of"),
    (lambda c, s: s.step("w"), TypeError, "gradients is 'w', but must be a dict by name"),
    (
        lambda c, s: s.step([np.ones(3)]),
        TypeError,
        "gradients[0] is a ndarray of shape (3,), but must be a (n",
    ),
    (lambda c, s: s.push(ONE, expected_step=0.5), ValueError, "expected_step is 0.5, but must be a whole"),
    (lambda c, s: s.pull(into=[np.ones(3)]), TypeError, "into[0] is a ndarray of shape (3,), but must be"),
    (
        lambda c, s: s.pull(if_newer_than_step="3"),
        TypeError,
        "if_newer_than_step is '3', but must be a whole",
    ),
    (lambda c, s: s.stream(window="8"), TypeError, "window is '8', but must be a whole number"),
    (lambda c, s: s.report({3: 1.0}), TypeError, "a name in metrics is 3, but must be a string"),
    (lambda c, s: s.snapshots.restore("3"), ValueError, "step is '3', but must be a step, a Snapshot, or a"),
    (lambda c, s: s.snapshots.delete(1.5), ValueError, "step is 1.5, but must be a whole number"),
    (lambda c, s: s.snapshots.fork(None, session_id=3), TypeError, "session_id is 3, but must be a string"),
    (lambda c, s: optserve.connect(50051), TypeError, "target is 50051, but must be a string"),
    (
        lambda c, s: optserve.connect("127.0.0.1:"),
        ValueError,
        "target is '127.0.0.1:', but must be host:port",
    ),
    (lambda c, s: optserve.connect(""), ValueError, "target is '', but must be host:port"),
    (
        lambda c, s: optserve.connect("localhost:1", token=b"x"),
        TypeError,
        "token is b'x', but must be a string",
    ),
    (lambda c, s: optserve.connect("localhost:1", retry=3), TypeError, "retry is 3, but must be a Retry, "),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG_CALLS, ids=range(len(WRONG_CALLS)))
def test_a_call_is_refused_with_argument_value_and_what_is_allowed(client, session, call, error, message):
    with pytest.raises(error) as caught:
        call(client, session)
    assert message in str(caught.value)
    assert session.get().step == 0, "nothing was sent"


# ---- Time-outs -------------------------------------------------------------

NO_TIMES = [0, -1, -0.0, NAN, -math.inf, "5", True, np.ones(2)]


@pytest.mark.parametrize("value", NO_TIMES, ids=repr)
def test_a_timeout_that_is_no_time_is_refused(client, session, value):
    calls = [
        lambda: optserve.connect("localhost:1", timeout=value),
        lambda: client.capabilities(timeout=value),
        lambda: client.create_session({"w": np.ones(2)}, "sgd", timeout=value),
        lambda: session.step(ONE, timeout=value),
        lambda: session.pull(timeout=value),
        lambda: session.push(ONE, timeout=value),
        lambda: session.stream(timeout=value),
        lambda: session.snapshots.export(os.devnull, timeout=value),
    ]
    with session.stream() as stream:
        pending = stream.submit(ONE)
        for call in [*calls, lambda: stream.step(ONE, timeout=value), lambda: pending.result(value)]:
            with pytest.raises(
                ValueError, match=r"timeout is .*, but must be a number of seconds greater than 0"
            ):
                call()
        pending.result()


@pytest.mark.parametrize("value", [math.inf, None, np.float64("inf")], ids=repr)
def test_no_limit_is_none_or_infinity(server, value):
    with optserve.connect(server.address, timeout=value) as client:
        session = client.create_session({"w": np.ones(300_000)}, "sgd", timeout=math.inf)
        gradient = {"w": np.ones(300_000)}
        session.step(gradient, timeout=math.inf)
        session.pull()
        session.push(gradient)
        for shared in (True, False):
            with session.stream(shared_memory=shared) as stream:
                stream.step(gradient)
                stream.submit(gradient).result()
        session.delete(timeout=math.inf)


# ---- Names of sessions and snapshots ---------------------------------------


def test_a_session_may_be_named_by_what_has_its_name(client, session):
    for given in (session, session.get(), session.name, session.name.removeprefix("sessions/")):
        assert client.session(given).name == session.name


def test_a_snapshot_is_named_by_itself_its_step_or_its_name():
    snapshot = optserve.Snapshot("sessions/a/snapshots/7", 7, None, 0, True)
    for given in (snapshot, 7, np.int64(7), 7.0, "sessions/a/snapshots/7"):
        assert coercion.to_snapshot_name(given, "sessions/a") == "sessions/a/snapshots/7"
    with pytest.raises(
        ValueError, match=r"'sessions/a/snapshots/7', but must be .* begins with sessions/b/snap"
    ):
        coercion.to_snapshot_name(snapshot, "sessions/b")
    for wrong in (True, None, object()):
        with pytest.raises(TypeError, match=r"step is .*, but must be a step, a Snapshot, or a name"):
            coercion.to_snapshot_name(wrong, "sessions/a")


# ---- Proxies ---------------------------------------------------------------


@pytest.mark.parametrize("target", ["{}", "ipv4:{}", "dns:///{}"])
def test_a_proxy_is_not_asked_for_this_machine(server, target):
    program = "import optserve, sys; print(optserve.connect(sys.argv[1], timeout=5).health())"
    nowhere = "http://127.0.0.1:9"
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), nowhere)
    command = [sys.executable, "-c", program, target.format(server.address)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "True", done.stderr
