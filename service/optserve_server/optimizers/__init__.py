"""Optimizers: one rule a file, written once over `optserve_server.arrays.vocabulary`."""

from optserve_server.optimizers.adabelief import AdaBelief
from optserve_server.optimizers.adadelta import Adadelta
from optserve_server.optimizers.adafactor import Adafactor
from optserve_server.optimizers.adagrad import Adagrad
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.adamax import Adamax
from optserve_server.optimizers.adamw import AdamW
from optserve_server.optimizers.adan import Adan
from optserve_server.optimizers.adopt import ADOPT
from optserve_server.optimizers.amsgrad import AMSGrad
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.fed_adagrad import FedAdagrad
from optserve_server.optimizers.fed_adam import FedAdam
from optserve_server.optimizers.fed_avg_m import FedAvgM
from optserve_server.optimizers.fed_yogi import FedYogi
from optserve_server.optimizers.ftrl import FTRL
from optserve_server.optimizers.lamb import LAMB
from optserve_server.optimizers.lars import LARS
from optserve_server.optimizers.lion import Lion
from optserve_server.optimizers.momentum import Momentum
from optserve_server.optimizers.muon import Muon
from optserve_server.optimizers.nadam import NAdam
from optserve_server.optimizers.nesterov import Nesterov
from optserve_server.optimizers.prodigy import Prodigy
from optserve_server.optimizers.radam import RAdam
from optserve_server.optimizers.rmsprop import RMSprop
from optserve_server.optimizers.rprop import Rprop
from optserve_server.optimizers.schedule_free_adamw import ScheduleFreeAdamW
from optserve_server.optimizers.schedule_free_sgd import ScheduleFreeSGD
from optserve_server.optimizers.sgd import SGD
from optserve_server.optimizers.yogi import Yogi
from optserve_server.registry import Registry

ALL: list[type[Rule]] = [
    SGD,
    Momentum,
    Nesterov,
    Adagrad,
    RMSprop,
    Adadelta,
    Adam,
    AMSGrad,
    AdamW,
    NAdam,
    Adamax,
    Rprop,
    RAdam,
    Lion,
    Yogi,
    AdaBelief,
    Adan,
    ADOPT,
    FTRL,
    FedAvgM,
    FedAdagrad,
    FedAdam,
    FedYogi,
    ScheduleFreeSGD,
    ScheduleFreeAdamW,
    LAMB,
    LARS,
    Adafactor,
    Muon,
    Prodigy,
]

REGISTRY = Registry("optimizers", ALL)
