"""The trainable tensors of each layer, and what rules with shapes of their own keep for them."""

from __future__ import annotations

import numpy as np
import pytest

from optserve_server.complexity import REGISTRY
from optserve_server.complexity.base import Layer, Shape
from optserve_server.complexity.batch_normalization import BatchNormalization
from optserve_server.complexity.convolution import Convolution
from optserve_server.complexity.dense import Dense
from optserve_server.complexity.dropout import Dropout
from optserve_server.complexity.elementwise import Elementwise
from optserve_server.complexity.embedding import Embedding
from optserve_server.complexity.flatten import Flatten
from optserve_server.complexity.global_pooling import GlobalPooling
from optserve_server.complexity.gru import GRU
from optserve_server.complexity.layer_normalization import LayerNormalization
from optserve_server.complexity.lstm import LSTM
from optserve_server.complexity.multi_head_attention import MultiHeadAttention
from optserve_server.complexity.network import NamedLayer, Network, estimate_complexity
from optserve_server.complexity.pooling import Pooling
from optserve_server.complexity.simple_rnn import SimpleRNN
from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers.adafactor import Adafactor
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.muon import Muon
from optserve_server.optimizers.sgd import SGD
from optserve_server.sessions.session import Session
from optserve_server.spec.session_spec import SessionSpec
from tests.service.sessions.support import session_of

# Recorded from Keras 3.15.1; the conformance sources compare them again.
KERAS: list[tuple[Layer, Shape, list[Shape]]] = [
    (Dense(units=5), (3, 7), [(7, 5), (5,)]),
    (Dense(units=5, use_bias=False), (7,), [(7, 5)]),
    (Convolution(filters=4, kernel=(3, 2)), (9, 7, 3), [(3, 2, 3, 4), (4,)]),
    (Convolution(filters=9, kernel=(3, 3), groups=3), (6, 6, 6), [(3, 3, 2, 9), (9,)]),
    (Convolution(filters=4, kernel=(3,), use_bias=False), (11, 3), [(3, 3, 4)]),
    (SimpleRNN(units=4), (6, 3), [(3, 4), (4, 4), (4,)]),
    (LSTM(units=4), (6, 3), [(3, 16), (4, 16), (16,)]),
    (LSTM(units=4, use_bias=False), (6, 3), [(3, 16), (4, 16)]),
    (LSTM(units=4, bidirectional=True), (6, 3), [(3, 16), (4, 16), (16,)] * 2),
    (GRU(units=4), (6, 3), [(3, 12), (4, 12), (2, 12)]),
    (GRU(units=4, reset_after=False), (6, 3), [(3, 12), (4, 12), (12,)]),
    (GRU(units=4, use_bias=False), (6, 3), [(3, 12), (4, 12)]),
    (GRU(units=4, reset_after=False, use_bias=False), (6, 3), [(3, 12), (4, 12)]),
    (Embedding(vocabulary=11, dimension=3), (6,), [(11, 3)]),
    (BatchNormalization(), (4, 5, 3), [(3,), (3,)]),
    (BatchNormalization(center=False, scale=False), (6,), []),
    (LayerNormalization(), (4, 5, 3), [(3,), (3,)]),
    (LayerNormalization(center=False), (6,), [(6,)]),
    (
        MultiHeadAttention(heads=2, key_dim=3, value_dim=7),
        (5, 4),
        [(4, 2, 3), (2, 3), (4, 2, 3), (2, 3), (4, 2, 7), (2, 7), (2, 7, 4), (4,)],
    ),
    (
        MultiHeadAttention(heads=2, key_dim=3, use_bias=False),
        (5, 4),
        [(4, 2, 3), (4, 2, 3), (4, 2, 3), (2, 3, 4)],
    ),
    (Pooling(window=(2, 2)), (4, 4, 3), []),
    (GlobalPooling(), (4, 4, 3), []),
    (Flatten(), (4, 3), []),
    (Elementwise(), (4, 3), []),
    (Dropout(), (4, 3), []),
]

# A vector, a matrix, and tensors of three and four dimensions.
EVERY_RANK = (
    Convolution(filters=4, kernel=(3, 2)),
    GlobalPooling(),
    Embedding(vocabulary=11, dimension=6),
    MultiHeadAttention(heads=2, key_dim=3, value_dim=7),
    GRU(units=5),
)


@pytest.mark.parametrize(("layer", "shape", "tensors"), KERAS)
def test_tensors_have_the_shapes_of_keras(layer: Layer, shape: Shape, tensors: list[Shape]) -> None:
    assert list(layer.cost(shape).tensors) == tensors


def test_every_kind_of_layer_is_recorded() -> None:
    assert {layer.name for layer, _, _ in KERAS} == set(REGISTRY)


def session_with(rule: Rule, tensors: list[Shape], dtype: type[np.floating]) -> Session:
    values = {f"t{index}": np.zeros(shape, dtype) for index, shape in enumerate(tensors)}
    return session_of(SessionSpec(optimizer=Chosen(rule)), values)


def arrays_of_state(session: Session) -> int:
    """Bytes of the slots that a session has made."""
    return sum(
        array.nbytes
        for partition in session.arenas.partitions.values()
        for slots in (partition.arrays, *partition.matrices.values())
        for name, array in slots.items()
        if name in partition.programs.rule.slot_names
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", [SGD(), Adam(), Muon(), Adafactor()], ids=lambda rule: rule.name)
def test_state_is_what_a_session_keeps_for_these_tensors(rule: Rule, dtype: type[np.floating]) -> None:
    network = Network(tuple(NamedLayer("", layer) for layer in EVERY_RANK), (5, 6, 3))
    found = estimate_complexity(network, 7, np.dtype(dtype).itemsize, rule.state_elements)
    tensors = [shape for layer in found.layers for shape in layer.tensors]
    assert {len(shape) for shape in tensors} == {1, 2, 3, 4}
    assert found.optimizer_state_bytes == arrays_of_state(session_with(rule, tensors, dtype))


@pytest.mark.parametrize(("rule", "elements"), [
    # One moment of the matrix; two of the biases, and of the kernel, which is no matrix.
    (Muon(), 80 + 2 * 5 + 2 * (72 + 4)),
    # Rows and columns of the last two dimensions, and every element of the biases.
    (Adafactor(), (16 + 5) + 5 + (6 * 3 + 6 * 4) + 4),
])  # fmt: skip
def test_state_of_a_dense_layer_and_a_convolution(rule: Rule, elements: int) -> None:
    layers = (Convolution(filters=4, kernel=(3, 2)), Pooling(window=(2, 2)), Flatten(), Dense(units=5))
    network = Network(tuple(NamedLayer("", layer) for layer in layers), (4, 9, 3))
    found = estimate_complexity(network, 1, 4, rule.state_elements)
    assert found.optimizer_state_bytes == 4 * elements
