"""Activations and their derivatives, one a file."""

from optserve_server.activations.base import Activation
from optserve_server.activations.leaky_relu import LeakyRelu
from optserve_server.activations.relu import Relu
from optserve_server.activations.sigmoid import Sigmoid
from optserve_server.activations.softmax import Softmax
from optserve_server.activations.tanh import Tanh
from optserve_server.registry import Registry

ALL: list[type[Activation]] = [Sigmoid, Tanh, Relu, LeakyRelu, Softmax]

REGISTRY = Registry("activations", ALL)
