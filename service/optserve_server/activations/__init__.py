"""Activations and their derivatives, one a file."""

from optserve_server.activations.base import Activation
from optserve_server.activations.celu import CELU
from optserve_server.activations.elu import ELU
from optserve_server.activations.gelu import GELU
from optserve_server.activations.hard_sigmoid import HardSigmoid
from optserve_server.activations.hard_swish import HardSwish
from optserve_server.activations.leaky_relu import LeakyReLU
from optserve_server.activations.log_softmax import LogSoftmax
from optserve_server.activations.maxout import Maxout
from optserve_server.activations.mish import Mish
from optserve_server.activations.prelu import PReLU
from optserve_server.activations.relu import ReLU
from optserve_server.activations.rrelu import RReLU
from optserve_server.activations.selu import SELU
from optserve_server.activations.sigmoid import Sigmoid
from optserve_server.activations.silu import SiLU
from optserve_server.activations.softmax import Softmax
from optserve_server.activations.softplus import Softplus
from optserve_server.activations.softsign import Softsign
from optserve_server.activations.tanh import Tanh
from optserve_server.registry import Registry

ALL: list[type[Activation]] = [
    Sigmoid,
    Tanh,
    ReLU,
    LeakyReLU,
    Softmax,
    PReLU,
    RReLU,
    ELU,
    SELU,
    CELU,
    GELU,
    SiLU,
    Mish,
    Softplus,
    Softsign,
    HardSigmoid,
    HardSwish,
    LogSoftmax,
    Maxout,
]

REGISTRY = Registry("activations", ALL)
