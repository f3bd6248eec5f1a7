"""Sessions: creating, describing, reading and writing them."""

from __future__ import annotations

import datetime

import ml_dtypes
import numpy as np
import pytest

import optserve
from optserve import ParameterPoint, Pull, initializers, optimizers, schedules
from tests.integration.python_client.conftest import LARGE


@pytest.fixture
def large(client):
    """Three megabytes and a small tensor of another type."""
    initial = {"large": np.arange(LARGE, dtype=np.float32), "small": np.ones(5)}
    session = client.create_session(initial, optimizers.SGD(learning_rate=1.0))
    yield session
    session.delete()


def test_a_session_is_described_in_full(client):
    session = client.create_session(
        {"kernel": optserve.Initialized((4, 3), "float32", initializers.Glorot()), "bias": np.zeros(3)},
        optimizers.Adam(convention=optserve.TORCH),
        session_id="described",
        schedule=schedules.Exponential(1e-2, decay_steps=10, decay_rate=0.5),
        gradient=optserve.Gradient(clip=optserve.ClipByGlobalNorm(1.0)),
        weight_average=optserve.WeightAverage(decay=0.5),
        decoupled_weight_decay=0.01,
        groups=[optserve.ParameterGroup("biases", tensors=["bias"], learning_rate_factor=2.0)],
        seed=3,
    )
    info = session.get()
    assert info.name == "sessions/described"
    assert (info.step, info.ready, info.seed) == (0, True, 3)
    assert info.spec.optimizer.epsilon == 1e-8
    assert info.spec.optimizer.bias_correction is optserve.BiasCorrection.HATTED
    assert isinstance(info.spec.schedule, schedules.Exponential)
    assert info.spec.gradient.clip.max_norm == 1.0
    assert info.spec.groups[0].tensors == ("bias",)
    assert info.layout["kernel"].shape == (4, 3)
    assert info.layout["bias"].group == "biases"
    assert info.layout.parameter_count == 15
    assert info.slots[""] == ("m", "v")
    assert info.resident_bytes > 0
    assert abs(datetime.datetime.now(datetime.UTC) - info.created) < datetime.timedelta(minutes=5)
    session.delete()


def test_the_server_fills_the_same_values_from_the_same_seed(client):
    parameters = {"k": optserve.Initialized((8, 8), np.float64, initializers.He())}
    sessions = [
        client.create_session(parameters, optimizers.SGD(learning_rate=0.1), seed=5) for _ in range(2)
    ]
    first, second = (session.pull()["k"] for session in sessions)
    assert first.tobytes() == second.tobytes()
    assert 0.3 < first.std() < 0.7
    for session in sessions:
        session.delete()


def test_sessions_are_listed_over_pages(client):
    made = [
        client.create_session({"w": np.zeros(1)}, optimizers.SGD(), session_id=f"paged-{i}") for i in range(5)
    ]
    listed = [info.name for info in client.sessions(page_size=2)]
    assert [name for name in listed if "paged-" in name] == [session.name for session in made]
    for session in made:
        session.delete()


def test_a_handle_finds_a_session_by_id_or_name(client, session):
    assert client.session(session.name).name == session.name
    assert client.session(session.name.removeprefix("sessions/")).layout == session.layout


def test_leaving_a_block_keeps_the_session(client, session):
    with client.session(session.name):
        pass
    assert client.session(session.name).step_number == 0


def test_large_parameters_are_uploaded(client, large):
    assert large.get().ready
    pulled = large.pull()
    np.testing.assert_array_equal(pulled["large"], np.arange(LARGE, dtype=np.float32))
    np.testing.assert_array_equal(pulled["small"], np.ones(5))
    assert all(array.flags.writeable and array.flags.aligned for array in pulled.values())


def test_large_parameters_and_the_servers_own_go_together(client):
    session = client.create_session(
        {
            "large": np.ones(LARGE, np.float32),
            "filled": optserve.Initialized((3,), "float32", initializers.Constant(2.0)),
        },
        optimizers.SGD(),
    )
    assert session.pull(["filled"])["filled"].tolist() == [2, 2, 2]
    session.delete()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_large_steps_go_over_a_stream_by_themselves(large, dtype):
    gradient = np.resize(np.array([1, 2, 4], dtype), LARGE)
    for _ in range(2):
        result = large.step({"large": gradient}, pull=Pull(tensors=["large"]))
    np.testing.assert_array_equal(
        result.parameters["large"], np.arange(LARGE, dtype=np.float32) - 2 * gradient
    )
    assert list(result.parameters) == ["large"]
    assert result.step == 2


def test_a_large_pull_beside_a_small_gradient(large):
    result = large.step({"small": np.ones(5)}, pull=True)
    np.testing.assert_array_equal(result.parameters["small"], np.zeros(5))
    np.testing.assert_array_equal(result.parameters["large"], np.arange(LARGE, dtype=np.float32))


def test_a_pull_chooses_tensors_and_type(large):
    pulled = large.pull(["small"], wire_dtype=ml_dtypes.bfloat16)
    assert list(pulled) == ["small"]
    assert pulled["small"].dtype == ml_dtypes.bfloat16


def test_a_pull_may_want_news_only(session):
    assert session.pull(if_newer_than_step=-1).modified
    session.step({"w": np.ones(3)})
    unchanged = session.pull(if_newer_than_step=1)
    assert (unchanged, unchanged.modified, unchanged.step) == ({}, False, 1)
    assert session.pull(if_newer_than_step=0)["w"].tolist() == [-1, 0, 1]


def test_a_pull_names_its_point(client):
    form = optserve.NesterovForm.LOOKAHEAD
    session = client.create_session(
        {"w": np.zeros(1)},
        optimizers.Nesterov(learning_rate=1.0, momentum=0.5, form=form),
        weight_average=optserve.WeightAverage(decay=0.5),
    )
    session.step({"w": np.ones(1)})
    session.step({"w": np.ones(1)})
    values = {point: float(session.pull(point=point)["w"][0]) for point in ParameterPoint}
    assert values == {
        ParameterPoint.PARAMETERS: -2.5,  # v = -1, then -1.5
        ParameterPoint.LOOKAHEAD: -3.25,
        ParameterPoint.AVERAGE: -1.75,  # -1, then (-1 - 2.5)/2
    }
    result = session.step({"w": np.zeros(1)}, pull=ParameterPoint.LOOKAHEAD)
    assert result.parameters["w"].tolist() == [-3.625]
    assert result.parameters.point is ParameterPoint.LOOKAHEAD
    session.delete()


def test_a_push_writes_all_or_some(session):
    session.push({"b": np.full((2, 2), 7.0)})
    np.testing.assert_array_equal(session.pull()["b"], np.full((2, 2), 7.0))
    info = session.push({"w": np.zeros(3), "b": np.zeros((2, 2), np.float32)}, expected_step=0)
    assert info.step == 0
    assert session.pull()["w"].tolist() == [0, 0, 0]


def test_a_push_may_start_the_optimizers_state_anew(client):
    session = client.create_session({"w": np.zeros(1)}, optimizers.Momentum(learning_rate=1.0, momentum=0.5))
    session.step({"w": np.ones(1)})
    session.push({"w": np.zeros(1)}, reset_state=True)
    assert session.step({"w": np.zeros(1)}, pull=True).parameters["w"].tolist() == [0]
    session.push({"w": np.zeros(1)})
    session.step({"w": np.ones(1)})
    session.push({"w": np.zeros(1)})
    assert session.step({"w": np.zeros(1)}, pull=True).parameters["w"].tolist() == [-0.5]
    session.delete()


def test_progress_is_shown_where_it_is_wanted(client, capsys):
    session = client.create_session({"w": np.zeros(LARGE)}, optimizers.SGD(), progress=True)
    assert "upload" in capsys.readouterr().err
    session.push({"w": np.zeros(LARGE)}, progress=False)
    session.pull()
    assert capsys.readouterr().err == ""
    session.delete()


def test_server_and_capabilities(client):
    assert client.health()
    assert client.health("optserve.v1.SessionService")
    capabilities = client.capabilities()
    assert capabilities.api_version == "optserve.v1"
    assert capabilities.backend == "numpy"
    adam = capabilities.algorithms["optimizers"]["adam"].hyperparameters
    assert float(adam["beta2"].defaults[optserve.KERAS]) == 0.999
    assert set(capabilities.algorithms["optimizers"]) == set(optimizers.Optimizer.CHOICES)
    assert np.dtype(ml_dtypes.bfloat16) in capabilities.wire_dtypes
    assert capabilities.limits.max_message_bytes > 1 << 20
    assert {"push", "metrics", "watch"} <= capabilities.features
