"""`optserve.keras.RemoteOptimizer` beside the optimizers of Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import optserve
from optserve import optimizers as rules
from optserve.keras import RemoteOptimizer, ReportMetrics
from tests.support.tiers import slow_unless

pytestmark = pytest.mark.filterwarnings("default")

BACKEND = keras.backend.backend()
Local = keras.optimizers
RULES = {
    "SGD": (rules.SGD(0.05), lambda **k: Local.SGD(0.05, **k)),
    "momentum": (rules.Momentum(0.05), lambda **k: Local.SGD(0.05, momentum=0.9, **k)),
    "Nesterov": (rules.Nesterov(0.05), lambda **k: Local.SGD(0.05, momentum=0.9, nesterov=True, **k)),
    "Adagrad": (rules.Adagrad(0.05), lambda **k: Local.Adagrad(0.05, **k)),
    "RMSprop": (rules.RMSprop(0.01), lambda **k: Local.RMSprop(0.01, **k)),
    "Adadelta": (rules.Adadelta(1.0), lambda **k: Local.Adadelta(1.0, **k)),
    "Adam": (rules.Adam(0.01), lambda **k: Local.Adam(0.01, **k)),
    "AMSGrad": (rules.AMSGrad(0.01), lambda **k: Local.Adam(0.01, amsgrad=True, **k)),
    "AdamW": (rules.AdamW(0.01), lambda **k: Local.AdamW(0.01, **k)),
    "NAdam": (rules.NAdam(0.01), lambda **k: Local.Nadam(0.01, **k)),
    "Adamax": (rules.Adamax(0.01), lambda **k: Local.Adamax(0.01, **k)),
    "Lion": (rules.Lion(0.001), lambda **k: Local.Lion(0.001, **k)),
}
ADAM, LOCAL_ADAM = RULES["Adam"]
SERVER_ERRORS: dict[str, tuple[type[BaseException], ...]] = {"torch": (optserve.OptserveError,)}
if BACKEND == "jax":
    import jax

    SERVER_ERRORS["jax"] = (optserve.OptserveError, jax.errors.JaxRuntimeError)
if BACKEND == "tensorflow":
    import tensorflow as tf

    SERVER_ERRORS["tensorflow"] = (optserve.OptserveError, tf.errors.UnknownError)
RAISED = SERVER_ERRORS[BACKEND]
"""What an error of the server is raised as."""

generator = np.random.default_rng(0)
X = generator.normal(size=(96, 6)).astype("float32")
Y = X[:, :1] * X[:, 1:2]


def make_model(optimizer, dtype=None, constraint=None, **options):
    keras.utils.set_random_seed(1)
    layer = {"dtype": dtype, "kernel_constraint": constraint}
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "tanh", **layer), keras.layers.Dense(1, **layer)]
    )
    model.compile(optimizer=optimizer, loss="mse", **options)
    return model


def fit(model, epochs=2, **options):
    return model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options)


def train(optimizer, epochs=2, callbacks=(), **options):
    model = make_model(optimizer, **options)
    fit(model, epochs, callbacks=[make() for make in callbacks])
    return model


def assert_near(model, expected, tolerance=3e-6):
    for one, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=tolerance)


@pytest.mark.parametrize("rule", slow_unless(lambda rule: rule in ("SGD", "Adam", "AdamW"), RULES))
def test_fit_has_the_results_of_the_local_optimizer(client, rule):
    own, theirs = RULES[rule]
    optimizer = RemoteOptimizer(own, server=client)
    assert_near(train(optimizer), train(theirs()))
    assert optimizer.session.get().step == int(optimizer.iterations) == 12
    assert optimizer.last_result.step == 12
    optimizer.session.delete()


@pytest.mark.parametrize("rule", ["SGD", "momentum", "Nesterov"])
def test_element_wise_rules_have_the_bits_of_keras(client, rule):
    own, theirs = RULES[rule]
    results = []
    for optimizer in (RemoteOptimizer(own, server=client), theirs()):
        variables = [keras.Variable(X[:4], name="a"), keras.Variable(X[5], name="b")]
        for step in range(10):
            gradients = [keras.ops.convert_to_tensor(X[4:8] + step), keras.ops.convert_to_tensor(X[9] * 0.3)]
            optimizer.apply(gradients, variables)
        results.append([keras.ops.convert_to_numpy(v) for v in variables])
    # PyTorch's own kernels round a product and a sum together.
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 if BACKEND == "torch" else 0)


def test_one_call_is_made_for_each_step(any_client, monkeypatch):
    calls = []
    for kind, name in ((optserve.StepStream, "step"), (optserve.SessionHandle, "push")):
        original = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *a, n=name, f=original, **k: calls.append(n) or f(*a, **k))
    optimizer = RemoteOptimizer(ADAM, server=any_client)
    assert_near(train(optimizer), train(LOCAL_ADAM()))
    assert calls == ["step"] * 12
    assert next(iter(optimizer.session.layout)).startswith("0/")


OPTIONS = {
    "run_eagerly": {"run_eagerly": True},
    "jit_compile=False": {"jit_compile": False},
}
if BACKEND != "torch":  # for which Keras has no such option
    OPTIONS["steps_per_execution"] = {"steps_per_execution": 3}


@pytest.mark.parametrize("options", OPTIONS)
def test_ways_to_run_a_model(client, options):
    found = train(RemoteOptimizer(ADAM, server=client), **OPTIONS[options])
    assert_near(found, train(LOCAL_ADAM(), **OPTIONS[options]))


if BACKEND != "torch":  # whose compiler takes minutes

    def test_compiled_steps(client):
        optimizer = RemoteOptimizer(ADAM, server=client)
        if BACKEND == "tensorflow":
            with pytest.raises(RuntimeError, match="jit_compile=False"):
                train(optimizer, jit_compile=True)
            assert optimizer.last_result is None
        else:
            assert_near(train(optimizer, jit_compile=True), train(LOCAL_ADAM()))


ARGUMENTS = {
    "clipnorm": {"clipnorm": 0.1},
    "global_clipnorm": {"global_clipnorm": 0.1},
    "clipvalue": {"clipvalue": 0.01},
    "loss_scale_factor": {"loss_scale_factor": 4.0},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 3},
    "use_ema": {"use_ema": True, "ema_momentum": 0.9},
    "ema_overwrite_frequency": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 4},
    "weight_decay": {"weight_decay": 0.1},
}


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_arguments_that_every_optimizer_of_keras_has(client, arguments):
    optimizer = RemoteOptimizer(ADAM, server=client, **ARGUMENTS[arguments])
    local = LOCAL_ADAM(**ARGUMENTS[arguments])
    found, expected = make_model(optimizer), make_model(local)
    # The second begins with what the first has made of the variables. On JAX, Keras fails then with any
    # optimizer that has a moving average, because the averages and the variables are the same buffers.
    fits = 1 if BACKEND == "jax" and local.use_ema else 2
    for _ in range(fits):
        fit(found)
        fit(expected)
    assert_near(found, expected, 1e-5)
    steps = 12 * fits // ARGUMENTS[arguments].get("gradient_accumulation_steps", 1)
    assert optimizer.session.get().step == steps == int(optimizer.iterations)


def test_variables_that_are_excluded_from_weight_decay(client):
    optimizer, local = RemoteOptimizer(rules.AdamW(0.01), server=client), Local.AdamW(0.01)
    for one in (optimizer, local):
        one.exclude_from_weight_decay(var_names=["bias"])
    assert_near(train(optimizer), train(local))
    group = optimizer.session.spec.groups[0]
    assert [name.rpartition("/")[2] for name in group.tensors] == ["bias", "bias"]


def test_constraints_of_variables(client):
    limit = keras.constraints.MaxNorm(0.5)
    found, expected = (
        train(one, constraint=limit) for one in (RemoteOptimizer(ADAM, server=client), LOCAL_ADAM())
    )
    assert_near(found, expected)


def test_weights_that_are_set_are_sent(client):
    found, expected = make_model(RemoteOptimizer(ADAM, server=client)), make_model(LOCAL_ADAM())
    for model in (found, expected):
        fit(model)
        model.set_weights([weight * 0.5 for weight in model.get_weights()])
        fit(model)
    assert_near(found, expected)


RATES = {
    "schedule": (lambda: keras.optimizers.schedules.CosineDecay(0.05, 10), ()),
    "LearningRateScheduler": (
        lambda: 0.05,
        [lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 / (1 + epoch))],
    ),
    "ReduceLROnPlateau": (
        lambda: 0.05,
        [lambda: keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=10.0, factor=0.5)],
    ),
}


@pytest.mark.parametrize("name", RATES)
def test_rates_of_keras_steer_the_session(client, name):
    rate, callbacks = RATES[name]
    optimizer = RemoteOptimizer(ADAM, server=client, learning_rate=rate())
    found = train(optimizer, 4, callbacks)
    assert_near(found, train(Local.Adam(rate()), 4, callbacks), 1e-5)
    assert optimizer.last_result.learning_rate < 0.05


@pytest.mark.parametrize("dtype", ["mixed_float16", "bfloat16", "float64"])
def test_element_types(client, dtype):
    optimizer = RemoteOptimizer(ADAM, server=client)
    model = train(optimizer, 4, dtype=dtype)  # with a LossScaleOptimizer if it is float16
    first = fit(make_model(RemoteOptimizer(ADAM, server=client), dtype=dtype), 1).history["loss"][0]
    assert model.evaluate(X, Y, verbose=0) < first
    kinds = {place.dtype for place in optimizer.session.layout.values()}
    is_wide = dtype == "float64" and BACKEND != "jax"  # which has no float64 by default
    assert kinds == {np.dtype("float64" if is_wide else "float32")}
    if dtype != "bfloat16":
        assert_near(model, train(LOCAL_ADAM(), 4, dtype=dtype), 1e-5 if dtype == "float64" else 1e-3)
    assert optimizer.session.get().step == int(optimizer.iterations)


def test_gradients_that_overflow_scale_the_loss_down(client):
    optimizer = RemoteOptimizer(ADAM, server=client)
    model = make_model(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**10))
    bad = X.copy()
    bad[20] = np.inf  # in the second batch of six
    model.fit(bad, Y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    assert optimizer.session.get().step == int(optimizer.iterations) == 5


def test_layers_without_gradients_stay_as_they_are(client):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    used, unused = keras.layers.Dense(1), keras.layers.Dense(1)
    model = keras.Model(inputs, [used(inputs), unused(inputs)])
    before = unused.get_weights()
    optimizer = RemoteOptimizer(rules.SGD(0.1), server=client, weight_decay=0.1)
    optimizer.build(model.trainable_variables)
    gradients = [keras.ops.ones(v.shape) for v in used.trainable_variables] + [None, None]
    optimizer.apply(gradients, model.trainable_variables)
    for one, other in zip(before, unused.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(optimizer.session.layout) == 4


def test_embeddings(client):
    def build(optimizer):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(20, 3)])
        model.add(keras.layers.Flatten())
        model.add(keras.layers.Dense(1))
        model.compile(optimizer=optimizer, loss="mse")
        words = np.arange(40).reshape(20, 2) % 17
        model.fit(words, words.sum(1, keepdims=True) / 20, batch_size=5, epochs=3, shuffle=False, verbose=0)
        return model

    assert_near(build(RemoteOptimizer(ADAM, server=client)), build(LOCAL_ADAM()))


def test_a_model_that_is_loaded_continues_the_session(address, tmp_path):
    optimizer = RemoteOptimizer(ADAM, server=address, clipnorm=1.0, weight_decay=0.01)
    model = train(optimizer)
    model.save(tmp_path / "old.keras")
    fit(model)
    optimizer.learning_rate = 0.005
    model.save(tmp_path / "new.keras")
    name = optimizer.session.name
    loaded = keras.models.load_model(tmp_path / "new.keras")
    assert (loaded.optimizer.clipnorm, loaded.optimizer.weight_decay) == (1.0, 0.01)
    fit(loaded, 1)
    assert loaded.optimizer.session.name == name
    assert loaded.optimizer.session.get().step == 30
    assert loaded.optimizer.last_result.learning_rate == np.float32(0.005)
    old = keras.models.load_model(tmp_path / "old.keras")
    with pytest.raises(RAISED, match="at step 30, not 12"):
        fit(old)
    assert isinstance(old.optimizer.last_error, optserve.errors.StepMismatch)
    assert old.optimizer.last_error.current_step == 30
    assert loaded.optimizer.session.get().step == 30
    keras.models.load_model(tmp_path / "old.keras").evaluate(X, Y, verbose=0)
    loaded.optimizer.session.delete()


def test_a_session_is_resumed_by_another_model(address):
    options = {"server": address, "session_id": f"resumed-{BACKEND}"}
    first = train(RemoteOptimizer(ADAM, **options))
    first.optimizer.close()
    keras.utils.set_random_seed(5)
    second = make_model(RemoteOptimizer(ADAM, resume=True, **options))
    second.set_weights([weight * 0 for weight in second.get_weights()])
    second.optimizer.build(second.trainable_variables)
    assert_near(second, first, 0)
    fit(second)
    whole = make_model(LOCAL_ADAM())
    fit(whole, 4)
    assert_near(second, whole)
    second.optimizer.session.delete()
    second.optimizer.close()


def test_steps_of_another_client_are_noticed(client):
    optimizer = RemoteOptimizer(rules.SGD(0.1), server=client)
    variable = keras.Variable(np.ones(3, "float32"))
    gradient = keras.ops.ones((3,))
    optimizer.apply([gradient], [variable])
    other = client.session(optimizer.session.name)
    name, *_ = other.layout
    other.step({name: np.ones(3, np.float32)})
    with pytest.raises(optserve.errors.StepMismatch):
        optimizer.apply([gradient])
    optimizer.pull()
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), 0.8)
    optimizer.apply([gradient])
    assert other.get().step == 3


def test_monitors_of_the_server(client):
    def run(optimizer, callbacks):
        model = make_model(optimizer)
        history = fit(model, 12, validation_data=(X[:32], -Y[:32]), callbacks=callbacks)
        return model, history.history

    plateau = optserve.ReduceOnPlateau(monitor="val_loss", patience=2, factor=0.5, threshold=1e-4)
    stopping = optserve.EarlyStopping(monitor="val_loss", patience=5, restore_best=True)
    optimizer = RemoteOptimizer(ADAM, server=client, reduce_on_plateau=plateau, early_stopping=stopping)
    reporting = ReportMetrics()
    found, history = run(optimizer, [reporting])
    expected, local = run(
        LOCAL_ADAM(),
        [
            keras.callbacks.ReduceLROnPlateau(patience=2, factor=0.5),
            keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True),
        ],
    )
    assert len(history["loss"]) == len(local["loss"]) < 12
    assert history["learning_rate"][-1] < 0.01
    assert reporting.last_report.stopped
    assert_near(found, expected, 1e-5)
    assert set(optimizer.session.history().metrics) == {"loss", "val_loss"}
    with pytest.raises(RAISED, match="TRAINING_STOPPED"):
        fit(found)


def test_the_callback_needs_a_remote_optimizer():
    with pytest.raises(TypeError, match="must be a RemoteOptimizer"):
        train("sgd", 1, [ReportMetrics])


@pytest.mark.parametrize("rule", [rules.SGD(), rules.Adam(), "lion"])
def test_the_default_rate_is_the_conventions(client, rule):
    expected = 0.01 if rule == rules.SGD() else 0.001
    assert float(RemoteOptimizer(rule, server=client).learning_rate) == np.float32(expected)


def test_a_schedule_of_the_session(client):
    schedule = optserve.schedules.Exponential(0.1, decay_rate=0.5, decay_steps=10)
    optimizer = RemoteOptimizer(rules.SGD(), server=client, schedule=schedule)
    local = Local.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5))
    assert_near(train(optimizer), train(local), 1e-5)
    again = RemoteOptimizer.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    with pytest.raises(ValueError, match="both given"):
        RemoteOptimizer(rules.SGD(), server=client, schedule=schedule, learning_rate=0.1)


@pytest.mark.parametrize("rule", RULES)
def test_configurations_are_complete(rule):
    options = {"gradient": optserve.Gradient(clip=optserve.ClipByGlobalNorm(1.0)), "clipvalue": 2.0}
    optimizer = RemoteOptimizer(RULES[rule][0], server="localhost:1", weight_decay=0.1, **options)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()


def test_wrong_arguments(client):
    with pytest.raises(ValueError, match="session_id is empty"):
        RemoteOptimizer(ADAM, server=client, resume=True)
    with pytest.raises(ValueError, match="not recognized"):
        RemoteOptimizer(ADAM, server=client, momentum=0.9)
    with pytest.raises(ValueError, match="no variables yet"):
        _ = RemoteOptimizer(ADAM, server=client).session


if BACKEND == "tensorflow":

    def test_several_replicas_are_refused(client):
        devices = tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
        optimizer = RemoteOptimizer(ADAM, server=client)
        assert len(devices) == 2
        with strategy.scope():
            model = make_model(optimizer)
        with pytest.raises(RuntimeError, match="each replica"):
            fit(model)
        assert optimizer.last_result is None
