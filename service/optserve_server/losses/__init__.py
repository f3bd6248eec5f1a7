"""Losses and their gradients, one a file."""

from optserve_server.losses.base import Loss
from optserve_server.losses.categorical_crossentropy import CategoricalCrossentropy
from optserve_server.losses.mean_squared_error import MeanSquaredError
from optserve_server.losses.sparse_categorical_crossentropy import SparseCategoricalCrossentropy
from optserve_server.registry import Registry

ALL: list[type[Loss]] = [MeanSquaredError, CategoricalCrossentropy, SparseCategoricalCrossentropy]

REGISTRY = Registry("losses", ALL)
