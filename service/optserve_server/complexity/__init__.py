"""Complexity of described networks: one file for each kind of layer, and their sum in `network`."""

from optserve_server.complexity.base import Layer
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
from optserve_server.complexity.pooling import Pooling
from optserve_server.complexity.simple_rnn import SimpleRNN
from optserve_server.registry import Registry

ALL: list[type[Layer]] = [
    Dense,
    Convolution,
    Pooling,
    GlobalPooling,
    SimpleRNN,
    LSTM,
    GRU,
    Embedding,
    BatchNormalization,
    LayerNormalization,
    MultiHeadAttention,
    Flatten,
    Elementwise,
    Dropout,
]

REGISTRY = Registry("layers", ALL)
