"""Activations and their derivatives, one a file."""

from optserve_server.activations.base import Activation
from optserve_server.activations.celu import Celu
from optserve_server.activations.elu import Elu
from optserve_server.activations.gelu import Gelu
from optserve_server.activations.hard_sigmoid import HardSigmoid
from optserve_server.activations.hard_swish import HardSwish
from optserve_server.activations.leaky_relu import LeakyRelu
from optserve_server.activations.log_softmax import LogSoftmax
from optserve_server.activations.maxout import Maxout
from optserve_server.activations.mish import Mish
from optserve_server.activations.prelu import Prelu
from optserve_server.activations.relu import Relu
from optserve_server.activations.rrelu import Rrelu
from optserve_server.activations.selu import Selu
from optserve_server.activations.sigmoid import Sigmoid
from optserve_server.activations.silu import Silu
from optserve_server.activations.softmax import Softmax
from optserve_server.activations.softplus import Softplus
from optserve_server.activations.softsign import Softsign
from optserve_server.activations.tanh import Tanh
from optserve_server.registry import Registry

ALL: list[type[Activation]] = [
    Sigmoid,
    Tanh,
    Relu,
    LeakyRelu,
    Softmax,
    Prelu,
    Rrelu,
    Elu,
    Selu,
    Celu,
    Gelu,
    Silu,
    Mish,
    Softplus,
    Softsign,
    HardSigmoid,
    HardSwish,
    LogSoftmax,
    Maxout,
]

REGISTRY = Registry("activations", ALL)
