"""What a described network takes, asked of a server."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import optserve
from optserve import errors, layers, optimizers

README = Path(__file__).parents[3] / "clients" / "python" / "README.md"
LENET_5 = layers.Network(
    [
        layers.Convolution(6, [5, 5], name="C1"),
        layers.Pooling([2, 2], name="S2"),
        layers.Convolution(16, [5, 5], name="C3"),
        layers.Pooling([2, 2], name="S4"),
        layers.Convolution(120, [5, 5], name="C5"),
        layers.Flatten(),
        layers.Dense(84, name="F6"),
        layers.Dense(10),
    ],
    input_shape=[32, 32, 1],
)

WHOLE_TENSORS = ("adafactor", "muon")


def test_a_network_is_counted_layer_by_layer(client):
    found = client.estimate_complexity(LENET_5, batch_size=32)
    names = ["C1", "S2", "C3", "S4", "C5", "flatten_5", "F6", "dense_7"]
    assert [layer.name for layer in found.layers] == names
    assert found.layers[2].output_shape == (10, 10, 16)
    assert found.layers[2].complexity.parameters == 2416
    assert found.total.trainable_parameters == 61_706
    assert found.total.multiply_adds == 32 * 416_520
    assert found.total.parameter_bytes == 4 * 61_706
    assert (found.optimizer_state_bytes, found.optimizer) == (0, None)


def test_the_answer_resolves_what_was_left_open(client):
    found = client.estimate_complexity(LENET_5, optimizer=optimizers.Adam())
    first = found.network.layers[0]
    assert isinstance(first, layers.Convolution)
    assert (first.strides, first.padding, first.groups) == ((1, 1), optserve.LayerPadding.VALID, 1)
    assert found.network.input_shape == (32, 32, 1)
    assert isinstance(found.optimizer, optimizers.Adam)
    assert found.optimizer.beta1 == 0.9
    assert client.estimate_complexity(found.network, optimizer=found.optimizer) == found


@pytest.mark.parametrize(
    "optimizer",
    [*(kind() for kind in optimizers.Optimizer.CHOICES.values()), optimizers.RMSprop(centered=True)],
    ids=lambda optimizer: optimizer.FIELD,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_optimizer_state_is_that_of_a_session(client, optimizer, dtype):
    """What a session of the same parameters takes beyond one that keeps none."""
    network = layers.Network([layers.Dense(3)], input_shape=[4])
    found = client.estimate_complexity(network, dtype=dtype, optimizer=optimizer)
    values = {"kernel": np.zeros((4, 3), dtype), "bias": np.zeros(3, dtype)}
    assert found.total.parameter_bytes == sum(value.nbytes for value in values.values())
    # Whole tensors are stepped from the preprocessed gradient, an array that is no slot.
    gradient = found.total.parameter_bytes * (optimizer.FIELD in WHOLE_TENSORS)
    beyond = resident_bytes(client, values, optimizer) - resident_bytes(client, values, optimizers.SGD())
    assert found.optimizer_state_bytes == beyond - gradient


def resident_bytes(client, values, optimizer):
    session = client.create_session(values, optimizer)
    found = session.get().resident_bytes
    session.delete()
    return found


def test_moving_statistics_are_no_parameters_of_an_optimizer(client):
    network = layers.Network([layers.BatchNormalization()], input_shape=[5])
    found = client.estimate_complexity(network, optimizer=optimizers.Momentum(), dtype="float16")
    assert (found.total.trainable_parameters, found.total.non_trainable_parameters) == (10, 10)
    assert (found.total.parameter_bytes, found.optimizer_state_bytes) == (40, 20)


@pytest.mark.parametrize(
    ("network", "reason", "field"),
    [
        (layers.Network([]), "FIELD_REQUIRED", "network.layers"),
        (layers.Network([layers.Dense(0)], input_shape=[1]), "OUT_OF_RANGE", "network.layers[0].dense.units"),
        (
            layers.Network([layers.Flatten(), layers.Dense(8), layers.Convolution(4, [3, 3])],
                           input_shape=[8, 8]),
            "SHAPE_MISMATCH",
            "network.layers[2].convolution.kernel",
        ),
        (layers.Network([layers.LSTM(4)], input_shape=[3]), "SHAPE_MISMATCH", "network.layers[0].lstm"),
        (
            layers.Network([layers.Embedding(10**9, 10**9)] * 3, input_shape=[]),
            "OUT_OF_RANGE",
            "network.layers[2]",
        ),
        (layers.Network([layers.Flatten()], input_shape=[0]), "OUT_OF_RANGE", "network.input_shape[0]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(client, network, reason, field):
    with pytest.raises(errors.InvalidArgument) as caught:
        client.estimate_complexity(network)
    assert (caught.value.reason.name, caught.value.field) == (reason, field)


def test_a_wrong_optimizer_or_batch_is_named(client):
    network = layers.Network([layers.Dense(1)], input_shape=[1])
    with pytest.raises(errors.InvalidArgument) as caught:
        client.estimate_complexity(network, optimizer=optimizers.Adam(beta1=2.0))
    assert caught.value.field == "optimizer.adam.beta1"
    with pytest.raises(errors.InvalidArgument) as caught:
        client.estimate_complexity(network, batch_size=-1)
    assert caught.value.field == "batch_size"
    with pytest.raises(TypeError, match="int32"):
        client.estimate_complexity(network, dtype=np.int32)


def test_ten_thousand_layers_are_answered_and_more_refused(client):
    many = [layers.Dense(4)] * 10_000
    found = client.estimate_complexity(layers.Network(many, input_shape=[4]), timeout=20)
    assert found.total.trainable_parameters == 10_000 * 20
    with pytest.raises(errors.ResourceExhausted) as caught:
        client.estimate_complexity(layers.Network([*many, layers.Flatten()], input_shape=[4]))
    assert caught.value.metadata["limit"] == "max_layers"


def test_the_readmes_network_is_counted(client, capsys):
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (example,) = [code for code in examples if "estimate_complexity" in code]
    exec(compile(example, str(README), "exec"), {"client": client})
    *_, dense, total = capsys.readouterr().out.splitlines()
    assert dense == f"dense_3 (10,) {13 * 13 * 8 * 10 + 10} {32 * 13 * 13 * 8 * 10}"
    assert total == f"{80 + 13_530} {2 * 4 * (80 + 13_530)}"
