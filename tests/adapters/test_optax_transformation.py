"""`optserve.optax.RemoteTransformation` beside the transformations of optax."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optserve
from optserve import optimizers as rules
from optserve.optax import RemoteState, RemoteTransformation
from tests.support.tiers import slow_unless

pytestmark = pytest.mark.filterwarnings("default")

RULES = {
    "SGD": (rules.SGD(learning_rate=0.1), optax.sgd(0.1)),
    "momentum": (rules.Momentum(learning_rate=0.1), optax.sgd(0.1, momentum=0.9)),
    "Nesterov": (rules.Nesterov(learning_rate=0.1), optax.sgd(0.1, momentum=0.9, nesterov=True)),
    "Adagrad": (rules.Adagrad(learning_rate=0.1), optax.adagrad(0.1)),
    "RMSprop": (rules.RMSprop(learning_rate=0.01), optax.rmsprop(0.01)),
    "Adadelta": (rules.Adadelta(learning_rate=1.0), optax.adadelta(1.0)),
    "Adam": (rules.Adam(learning_rate=0.01), optax.adam(0.01)),
    "AMSGrad": (rules.AMSGrad(learning_rate=0.01), optax.amsgrad(0.01)),
    "AdamW": (rules.AdamW(learning_rate=0.01), optax.adamw(0.01)),
    "NAdam": (rules.NAdam(learning_rate=0.01), optax.nadam(0.01)),
    "Adamax": (rules.Adamax(learning_rate=0.01), optax.adamax(0.01)),
    "AdaBelief": (rules.AdaBelief(learning_rate=0.01), optax.adabelief(0.01)),
    "Lion": (rules.Lion(learning_rate=0.01), optax.lion(0.01)),
    "Yogi": (rules.Yogi(learning_rate=0.01), optax.yogi(0.01)),
}
EXACT = {"SGD", "momentum", "Nesterov"}
"""Rules whose operations have the same bits in optax when each is run alone."""

BOTH_WAYS = pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])


def make_parameters(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "dense": {"kernel": jax.random.normal(keys[0], (6, 8), dtype), "bias": jnp.ones(8, dtype)},
        "scale": [jax.random.normal(keys[1], (), dtype), jax.random.normal(keys[2], (3, 1, 2), dtype)],
    }


def loss(params, step=0):
    target = jnp.sin(jnp.arange(8.0) + step)
    fitted = (jnp.tanh(params["dense"]["kernel"]) - target) ** 2 + params["dense"]["bias"] ** 2
    return fitted.mean() + (params["scale"][0] - 1) ** 2 + jnp.cos(params["scale"][1]).sum()


def make_update(tx, wrap=jax.jit):
    """A function that takes one step: of parameters, state and number of the step."""

    @wrap
    def take(params, state, step):
        updates, state = tx.update(jax.grad(loss)(params, step), state, params)
        return optax.apply_updates(params, updates), state

    return take


def train(tx, params, steps=20, wrap=jax.jit, state=None):
    state = tx.init(params) if state is None else state
    take = make_update(tx, wrap)
    for step in range(steps):
        params, state = take(params, state, step)
    return params, state


def assert_near(found, expected, tolerance=3e-5):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=tolerance)


def assert_session_has(tx, state, params, tolerance=0.0):
    session = tx.session(state)
    assert session.get().step == int(state.step)
    pulled, _ = tx.attach(session, params)
    assert_near(params, pulled, tolerance)


@pytest.mark.parametrize("rule", slow_unless(lambda rule: rule in ("SGD", "Adam", "AdamW"), RULES))
def test_results_are_those_of_optax(client, rule):
    own, theirs = RULES[rule]
    tx = RemoteTransformation(own, server=client)
    params, state = train(tx, make_parameters())
    expected, _ = train(theirs, make_parameters())
    assert_near(params, expected)
    assert_session_has(tx, state, params, 1e-7)
    tx.session(state).delete()


@pytest.mark.parametrize("rule", sorted(EXACT))
def test_element_wise_rules_have_the_bits_of_optax(client, rule):
    own, theirs = RULES[rule]
    tx = RemoteTransformation(own, server=client)
    params = expected = make_parameters()
    state, local = tx.init(params), theirs.init(params)
    for step in range(20):
        gradients = jax.grad(loss)(expected, step)
        params, state = tx.step(gradients, state, params)
        updates, local = theirs.update(gradients, local, expected)
        expected = optax.apply_updates(expected, updates)
    assert_near(params, expected, 0)


def test_the_names_of_tensors_are_those_of_the_tree(any_client):
    tx = RemoteTransformation(rules.SGD(0.1), server=any_client)
    _, state = train(tx, make_parameters(), steps=2)
    assert set(tx.session(state).layout) == {"dense/kernel", "dense/bias", "scale/0", "scale/1"}
    bare = tx.init(jnp.ones(3))
    assert set(tx.session(bare).layout) == {"parameters"}
    assert tx.session(bare).name != tx.session(state).name


@BOTH_WAYS
def test_a_step_that_is_executed_twice_is_refused(client, wrap):
    tx = RemoteTransformation(rules.Adam(0.1), server=client)
    params, state = train(tx, make_parameters(), steps=3, wrap=wrap)
    take = make_update(tx, wrap)
    first, after = take(params, state, 3)
    for old in (params, first):
        with pytest.raises(
            (optserve.errors.StepMismatch, jax.errors.JaxRuntimeError), match="at step 4, not 3"
        ):
            take(old, state, 3)
        assert isinstance(tx.last_error, optserve.errors.StepMismatch)
        assert tx.last_error.current_step == 4
    assert tx.last_result is None
    assert_session_has(tx, after, first, 1e-7)
    further, _ = take(first, after, 4)
    expected, _ = train(optax.adam(0.1), make_parameters(), steps=5, wrap=wrap)
    assert_near(further, expected)
    assert tx.last_error is None


def test_a_state_is_restored_in_another_process(address, tmp_path):
    first = RemoteTransformation(
        rules.Adam(0.1), server=address, durability=optserve.Durability(mode="ephemeral")
    )
    saved = []
    params, state = make_parameters(), first.init(make_parameters())
    for _ in range(2):
        params, state = train(first, params, 5, state=state)
        saved.append(pickle.dumps(jax.tree.map(np.asarray, (params, state))))
    first.close()
    second = RemoteTransformation(rules.Adam(0.1), server=address)
    old, new = (jax.tree.map(jnp.asarray, pickle.loads(file)) for file in saved)
    with pytest.raises(jax.errors.JaxRuntimeError, match="the session is at step 10, not 5"):
        train(second, old[0], 1, state=old[1])
    assert second.last_error.current_step == 10
    params, state = train(second, new[0], 5, state=new[1])
    expected = make_parameters()
    local = optax.adam(0.1).init(expected)
    for _ in range(3):
        expected, local = train(optax.adam(0.1), expected, 5, state=local)
    assert_near(params, expected)
    taken, at = second.attach(second.session(state), old[0])
    assert int(at.step) == 15
    assert_near(taken, params, 1e-7)
    second.session(state).delete()
    second.close()


def test_a_session_of_a_given_name_is_made_once(client):
    tx = RemoteTransformation(rules.SGD(0.1), server=client, session_id="named")
    state = jax.jit(tx.init)(make_parameters())
    assert tx.session(state).name == "sessions/named"
    with pytest.raises(optserve.errors.AlreadyExists):
        tx.init(make_parameters())
    tx.session(state).delete()


def test_shapes_are_found_without_a_session(address):
    tx = RemoteTransformation(rules.SGD(0.1), server="localhost:1")
    state = jax.eval_shape(tx.init, make_parameters())
    assert state == RemoteState(jax.ShapeDtypeStruct((63,), jnp.uint8), jax.ShapeDtypeStruct((), jnp.int32))


def test_loops_and_conditionals_of_lax(client):
    tx = RemoteTransformation(rules.Adam(0.1), server=client)
    take = make_update(tx, lambda f: f)
    local = make_update(optax.adam(0.1), lambda f: f)

    def loop(take):
        def body(carry, step):
            return jax.lax.cond(step % 3 < 2, take, lambda p, s, _: (p, s), *carry, step), None

        return jax.jit(lambda p, s: jax.lax.scan(body, (p, s), jnp.arange(12))[0])

    params, state = loop(take)(make_parameters(), tx.init(make_parameters()))
    expected, _ = loop(local)(make_parameters(), optax.adam(0.1).init(make_parameters()))
    assert int(state.step) == 8
    assert_near(params, expected)


COMBINATIONS = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(0.1), tx),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "masked": lambda tx: optax.masked(tx, {"dense": True, "scale": [False, True]}),
    "partition": lambda tx: optax.partition(
        {"remote": tx, "local": optax.sgd(0.1)}, {"dense": "remote", "scale": ["local", "remote"]}
    ),
    "projection": lambda tx: optax.chain(tx, optax.keep_params_nonnegative()),
    "scaled": lambda tx: optax.chain(optax.scale(2.0), tx, optax.scale(0.5)),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combinations_with_other_transformations(client, name):
    found, expected = (
        train(COMBINATIONS[name](tx), jax.tree.map(jnp.abs, make_parameters()), 10)[0]
        for tx in (RemoteTransformation(rules.Momentum(0.1), server=client), optax.sgd(0.1, momentum=0.9))
    )
    assert_near(found, expected)


def test_an_update_whose_result_is_thrown_away_is_noticed(client):
    """MultiSteps makes an update of every gradient, and keeps each n-th."""
    tx = RemoteTransformation(rules.SGD(0.1), server=client)
    steps = optax.MultiSteps(tx, 2)
    with pytest.raises(jax.errors.JaxRuntimeError, match="at step 1, not 0"):
        train(steps, make_parameters(), 2)
    assert isinstance(tx.last_error, optserve.errors.StepMismatch)


@BOTH_WAYS
def test_parameters_that_were_changed_are_sent(client, wrap):
    tx = RemoteTransformation(rules.Adam(0.1), server=client)
    found, expected = (make_parameters(), tx.init(make_parameters())), None
    local = optax.adam(0.1)
    expected = make_parameters(), local.init(make_parameters())
    takes = make_update(tx, wrap), make_update(local, wrap)
    for step in range(10):
        found, expected = takes[0](*found, step), takes[1](*expected, step)
        if step % 4 == 2:
            found, expected = ((jax.tree.map(lambda p: p * 0.5, p), s) for p, s in (found, expected))
    assert_near(found[0], expected[0])
    assert_session_has(tx, found[1], found[0], 1e-7)


def test_one_call_is_made_for_each_step(client, monkeypatch):
    tx = RemoteTransformation(rules.Adam(0.1), server=client)
    pushes, steps = [], []
    push, step = optserve.SessionHandle.push, optserve.StepStream.step
    monkeypatch.setattr(optserve.SessionHandle, "push", lambda *a, **k: pushes.append(0) or push(*a, **k))
    monkeypatch.setattr(optserve.StepStream, "step", lambda *a, **k: steps.append(0) or step(*a, **k))
    train(tx, make_parameters(), steps=30)
    assert (len(pushes), len(steps)) == (0, 30)


def test_updates_round_and_steps_do_not(client):
    tx = RemoteTransformation(rules.SGD(learning_rate=1.0), server=client)
    params = jnp.asarray([1.0, 1e8, 3e-20], jnp.float32)
    gradients = jnp.asarray([1 - 1e-7, 1e8 - 1, 5.0], jnp.float32)
    wanted = np.asarray(params) - np.asarray(gradients)
    state = tx.init(params)
    stepped, after = tx.step(gradients, state, params)
    np.testing.assert_array_equal(stepped, wanted)
    assert_session_has(tx, after, stepped)
    updates, _ = tx.update(gradients, tx.init(params), params)
    np.testing.assert_allclose(optax.apply_updates(params, updates), wanted, rtol=0, atol=8.0)


@BOTH_WAYS
def test_hyperparameters_of_one_step(client, wrap):
    tx = RemoteTransformation(rules.Adam(1.0), server=client)
    schedule = optax.cosine_decay_schedule(0.1, 20)

    @wrap
    def take(params, state, step):
        gradients = jax.grad(loss)(params, step)
        overrides = {"learning_rate": schedule(state.step)}
        updates, state = tx.update(gradients, state, params, overrides=overrides, value=0.0)
        return optax.apply_updates(params, updates), state

    params = make_parameters()
    state = tx.init(params)
    for step in range(10):
        params, state = take(params, state, step)
    expected, _ = train(optax.adam(schedule), make_parameters(), 10, wrap)
    assert_near(params, expected)
    tx.update(params, state, params, overrides={"learning_rate": 0.1, "": {"beta1": 0.5}})
    assert tx.last_result.learning_rate == 0.1  # of float64: the number is not traced


def test_hyperparameters_that_optax_injects(client):
    tx = RemoteTransformation(rules.Adam(1.0), server=client)

    def make(learning_rate):
        def update(gradients, state, params):
            return tx.update(gradients, state, params, overrides={"learning_rate": learning_rate})

        return optax.GradientTransformation(tx.init, update)

    found, expected = (optax.inject_hyperparams(f)(learning_rate=0.1) for f in (make, optax.adam))
    results = []
    for one in (found, expected):
        params, state = train(one, make_parameters(), 3)
        state.hyperparams["learning_rate"] = 0.01
        results.append(train(one, params, 3, state=state)[0])
    assert_near(*results)


def test_a_schedule_of_the_session(client):
    schedule = optserve.schedules.Exponential(0.1, decay_rate=0.5, decay_steps=10)
    tx = RemoteTransformation(rules.Adam(), server=client, schedule=schedule)
    params, _ = train(tx, make_parameters(), 10)
    expected, _ = train(optax.adam(optax.exponential_decay(0.1, 10, 0.5)), make_parameters(), 10)
    assert_near(params, expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_parameters_have_float32_on_the_server(any_client, dtype):
    tx = RemoteTransformation(rules.SGD(1e-3), server=any_client)
    params = {"w": jnp.ones((64, 5), dtype)}
    state, master = tx.init(params), np.ones((64, 5), np.float32)
    take = jax.jit(lambda g, p, s: tx.update(g, s, p))
    for step in range(20):
        gradients = {"w": jax.random.normal(jax.random.key(step), (64, 5)).astype(dtype)}
        updates, state = take(gradients, params, state)
        params = optax.apply_updates(params, updates)
        master = master - np.float32(1e-3) * np.asarray(gradients["w"], np.float32)
    assert params["w"].dtype == dtype
    np.testing.assert_allclose(np.asarray(tx.session(state).pull()["w"]), master, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.asarray(params["w"], np.float32), master, rtol=0, atol=0.01)


def test_float64(client):
    with jax.enable_x64(True):
        tx = RemoteTransformation(rules.Adam(0.01), server=client)
        params, _ = train(tx, make_parameters(jnp.float64))
        expected, _ = train(optax.adam(0.01), make_parameters(jnp.float64))
        assert_near(params, expected, 1e-7)  # optax counts steps in float32
    assert params["dense"]["bias"].dtype == np.float64


def take_repeatedly(tx, name, params, state):
    """Takes a step inside a transformation that would repeat it."""
    take = make_update(tx, lambda f: f)
    mesh = jax.sharding.Mesh(jax.devices()[:1], "x")
    spec = jax.sharding.PartitionSpec()
    many = jax.tree.map(lambda leaf: leaf[None], (params, state))
    calls = {
        "vmap": lambda: jax.vmap(take, (0, 0, None))(*many, 0),
        "vmap of jit": lambda: jax.vmap(jax.jit(take), (0, 0, None))(*many, 0),
        "pmap": lambda: jax.pmap(take, in_axes=(0, 0, None))(*many, 0),
        "shard_map": lambda: jax.jit(
            jax.shard_map(take, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        )(params, state, 0),
        "grad": lambda: jax.grad(lambda p: loss(take(p, state, 0)[0]))(params),
    }
    return calls[name]()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vmap", "Cannot `vmap`"),
        ("vmap of jit", "Cannot `vmap`"),
        ("pmap", "would be taken once by each device"),
        ("shard_map", "would be taken once by each device"),
        ("grad", "do not support JVP"),
    ],
)
def test_a_step_that_would_be_repeated_is_refused(client, name, text):
    tx = RemoteTransformation(rules.SGD(0.1), server=client)
    params = make_parameters()
    state = tx.init(params)
    with pytest.raises(ValueError, match=text):
        take_repeatedly(tx, name, params, state)
    assert tx.session(state).get().step == 0


SHARDED = """
import sys
import jax, jax.numpy as jnp, optax
from jax.sharding import NamedSharding, PartitionSpec
from optserve import optimizers as rules
from optserve.optax import RemoteTransformation

tx, local = RemoteTransformation(rules.Adam(0.1), server=sys.argv[1]), optax.adam(0.1)
mesh = jax.sharding.Mesh(jax.devices(), "x")
params = jax.device_put(jnp.arange(8.0).reshape(4, 2), NamedSharding(mesh, PartitionSpec("x")))
assert len(params.sharding.device_set) == 2

def train(tx, wrap):
    take = wrap(lambda p, s: tx.update(p - 1, s, p))
    p, s = params, tx.init(params)
    for _ in range(5):
        updates, s = take(p, s)
        p = optax.apply_updates(p, updates)
    return p

for wrap in (jax.jit, lambda f: f):
    found, expected = train(tx, wrap), train(local, jax.jit)
    assert jnp.abs(found - expected).max() < 3e-5, found - expected
assert tx.last_result.step == 5
"""


def test_parameters_of_several_devices_are_stepped_as_one(address):
    program = [sys.executable, "-c", SHARDED, address]
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    path = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    subprocess.run(program, check=True, timeout=300, env=devices | path, cwd=Path(__file__).parents[2])


def large_loop(client, steps):
    """A compiled loop of arrays of 10 MB: the parameters, after each step, and their number."""
    count = 2_500_000
    tx = RemoteTransformation(rules.SGD(learning_rate=0.5), server=client)

    @jax.jit
    def take(params, state):
        updates, state = tx.update(params * 0.25, state, params)
        return optax.apply_updates(params, updates), state

    params = jnp.full(count, 2.0)
    state = jax.jit(tx.init)(params)
    for step in range(steps):
        params, state = take(params, state)
        if step % 1000 == 999:
            params = params * 2.0
    assert tx.session(state).get().step == steps
    tx.session(state).delete()
    return params, state


def test_large_arrays_do_not_hang(any_client):
    params, state = large_loop(any_client, 50)
    assert int(state.step) == 50
    np.testing.assert_allclose(params, 2.0 * 0.875**50, rtol=1e-5)


@pytest.mark.slow
def test_ten_thousand_steps_of_large_arrays_do_not_hang(client):
    _, state = large_loop(client, 10_000)
    assert int(state.step) == 10_000


def test_what_does_not_fit_is_rejected(client):
    tx = RemoteTransformation(rules.SGD(0.1), server=client)
    params = make_parameters()
    state = tx.init(params)
    with pytest.raises(ValueError, match="params is None"):
        tx.update(params, state)
    with pytest.raises(ValueError, match="only one of them has"):
        tx.update({"dense": params["dense"]}, state, params)
    with pytest.raises(ValueError, match="no arrays"):
        tx.init({})
    with pytest.raises(ValueError, match="two arrays of one name: a/b"):
        tx.init({"a": {"b": jnp.ones(2)}, "a/b": jnp.ones(2)})
    with pytest.raises(TypeError, match="'n' is int32"):
        tx.init({"n": jnp.arange(3)})
    with pytest.raises(ValueError, match="average them"):
        RemoteTransformation(rules.SGD(0.1), server=client, gradient=optserve.Gradient(accumulation_steps=2))
    with pytest.raises(optserve.errors.InvalidArgument):
        tx.update(jax.tree.map(lambda p: p * jnp.nan, params), state, params)
    assert tx.session(state).get().step == 0
