"""Optimizers: one rule a file, written once over `optserve_server.arrays.vocabulary`."""

from optserve_server.optimizers.adabelief import Adabelief
from optserve_server.optimizers.adadelta import Adadelta
from optserve_server.optimizers.adafactor import Adafactor
from optserve_server.optimizers.adagrad import Adagrad
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.adamax import Adamax
from optserve_server.optimizers.adamw import Adamw
from optserve_server.optimizers.adan import Adan
from optserve_server.optimizers.adopt import Adopt
from optserve_server.optimizers.amsgrad import Amsgrad
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.fed_adagrad import FedAdagrad
from optserve_server.optimizers.fed_adam import FedAdam
from optserve_server.optimizers.fed_avg_m import FedAvgM
from optserve_server.optimizers.fed_yogi import FedYogi
from optserve_server.optimizers.ftrl import Ftrl
from optserve_server.optimizers.lamb import Lamb
from optserve_server.optimizers.lars import Lars
from optserve_server.optimizers.lion import Lion
from optserve_server.optimizers.momentum import Momentum
from optserve_server.optimizers.muon import Muon
from optserve_server.optimizers.nadam import Nadam
from optserve_server.optimizers.nesterov import Nesterov
from optserve_server.optimizers.prodigy import Prodigy
from optserve_server.optimizers.radam import Radam
from optserve_server.optimizers.rmsprop import Rmsprop
from optserve_server.optimizers.rprop import Rprop
from optserve_server.optimizers.schedule_free_adamw import ScheduleFreeAdamw
from optserve_server.optimizers.schedule_free_sgd import ScheduleFreeSgd
from optserve_server.optimizers.sgd import Sgd
from optserve_server.optimizers.yogi import Yogi
from optserve_server.registry import Registry

ALL: list[type[Rule]] = [
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
    Radam,
    Lion,
    Yogi,
    Adabelief,
    Adan,
    Adopt,
    Ftrl,
    FedAvgM,
    FedAdagrad,
    FedAdam,
    FedYogi,
    ScheduleFreeSgd,
    ScheduleFreeAdamw,
    Lamb,
    Lars,
    Adafactor,
    Muon,
    Prodigy,
]

REGISTRY = Registry("optimizers", ALL)
