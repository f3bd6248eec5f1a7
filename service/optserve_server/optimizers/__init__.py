"""Optimizers: one rule a file, written once over `optserve_server.arrays.vocabulary`."""

from optserve_server.optimizers.adadelta import Adadelta
from optserve_server.optimizers.adagrad import Adagrad
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.adamax import Adamax
from optserve_server.optimizers.adamw import Adamw
from optserve_server.optimizers.amsgrad import Amsgrad
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.lamb import Lamb
from optserve_server.optimizers.lars import Lars
from optserve_server.optimizers.momentum import Momentum
from optserve_server.optimizers.nadam import Nadam
from optserve_server.optimizers.nesterov import Nesterov
from optserve_server.optimizers.rmsprop import Rmsprop
from optserve_server.optimizers.rprop import Rprop
from optserve_server.optimizers.sgd import Sgd
from optserve_server.registry import Registry

ALL: list[type[ElementwiseRule]] = [
    Sgd,
    Momentum,
    Nesterov,
    Adagrad,
    Rmsprop,
    Adadelta,
    Adam,
    Amsgrad,
    Adamw,
    Nadam,
    Adamax,
    Rprop,
    Lamb,
    Lars,
]

REGISTRY = Registry("optimizers", ALL)
