"""Losses and their gradients, one a file."""

from optserve_server.losses.base import Loss
from optserve_server.losses.binary_crossentropy import BinaryCrossentropy
from optserve_server.losses.binary_focal_crossentropy import BinaryFocalCrossentropy
from optserve_server.losses.categorical_crossentropy import CategoricalCrossentropy
from optserve_server.losses.categorical_focal_crossentropy import CategoricalFocalCrossentropy
from optserve_server.losses.categorical_hinge import CategoricalHinge
from optserve_server.losses.ciou import CIoU
from optserve_server.losses.cosine_similarity import CosineSimilarity
from optserve_server.losses.custom import Custom
from optserve_server.losses.diou import DIoU
from optserve_server.losses.giou import GIoU
from optserve_server.losses.hinge import Hinge
from optserve_server.losses.huber import Huber
from optserve_server.losses.iou import IoU
from optserve_server.losses.kl_divergence import KLDivergence
from optserve_server.losses.log_cosh import LogCosh
from optserve_server.losses.mean_absolute_error import MeanAbsoluteError
from optserve_server.losses.mean_squared_error import MeanSquaredError
from optserve_server.losses.mean_squared_logarithmic_error import MeanSquaredLogarithmicError
from optserve_server.losses.poisson import Poisson
from optserve_server.losses.smooth_l1 import SmoothL1
from optserve_server.losses.sparse_categorical_crossentropy import SparseCategoricalCrossentropy
from optserve_server.losses.squared_hinge import SquaredHinge
from optserve_server.registry import Registry

ALL: list[type[Loss]] = [
    MeanSquaredError,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
    Custom,
    MeanAbsoluteError,
    Huber,
    SmoothL1,
    LogCosh,
    MeanSquaredLogarithmicError,
    BinaryCrossentropy,
    BinaryFocalCrossentropy,
    CategoricalFocalCrossentropy,
    KLDivergence,
    Poisson,
    Hinge,
    SquaredHinge,
    CategoricalHinge,
    CosineSimilarity,
    IoU,
    GIoU,
    DIoU,
    CIoU,
]

REGISTRY = Registry("losses", ALL)
