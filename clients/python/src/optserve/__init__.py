"""Client of optserve, optimizer steps as a service.

`connect` makes a `Client`, which makes `SessionHandle`s. Specifications live in
`optserve.optimizers`, `optserve.schedules`, `optserve.losses`, `optserve.activations`,
`optserve.initializers` and `optserve.layers`; what a session can be asked for beside its optimizer, and the
enums, are here.
"""

from optserve import activations, errors, events, initializers, layers, losses, optimizers, schedules, tls
from optserve.capabilities import Algorithm, Capabilities, Hyperparameter, Limits
from optserve.client import Client, connect
from optserve.complexity import Complexity, LayerComplexity, NetworkComplexity
from optserve.errors import OptserveError, Reason
from optserve.functions import LossValue
from optserve.info import SessionInfo
from optserve.initial import Initialized
from optserve.layout import Layout, TensorInfo
from optserve.metrics import MetricsReport, PlateauState, StoppingState
from optserve.parameters import Parameters, Pull
from optserve.pending import PendingStep
from optserve.retry import Retry
from optserve.session import SessionHandle
from optserve.snapshots import Snapshot, Snapshots
from optserve.sparse import SparseRows
from optserve.specs.enums import (
    AdamaxForm,
    AMSGradMaximum,
    Annealing,
    BiasCorrection,
    BoundarySide,
    Convention,
    CooldownOrder,
    DurabilityMode,
    EpsilonPlacement,
    ExpiryAction,
    InitializerDistribution,
    LayerPadding,
    LossReduction,
    MetricMode,
    MomentumForm,
    NAdamForm,
    NesterovForm,
    NonFinitePolicy,
    ParameterPoint,
    PatienceRule,
    PoolingForm,
    SparseUpdate,
    StepOutcome,
    ThresholdMode,
)
from optserve.specs.session_spec import (
    ClipByGlobalNorm,
    ClipByTensorNorm,
    ClipByValue,
    Durability,
    EarlyStopping,
    Gradient,
    Lease,
    ParameterGroup,
    ReduceOnPlateau,
    SessionSpec,
    WeightAverage,
)
from optserve.steps import StepResult
from optserve.stream import StepStream
from optserve.update import StateTransfer

__version__ = "0.1.0"

KERAS = Convention.KERAS
TORCH = Convention.TORCH
OPTAX = Convention.OPTAX
LECTURE = Convention.LECTURE

__all__ = [
    "KERAS",
    "LECTURE",
    "OPTAX",
    "TORCH",
    "AMSGradMaximum",
    "AdamaxForm",
    "Algorithm",
    "Annealing",
    "BiasCorrection",
    "BoundarySide",
    "Capabilities",
    "Client",
    "ClipByGlobalNorm",
    "ClipByTensorNorm",
    "ClipByValue",
    "Complexity",
    "Convention",
    "CooldownOrder",
    "Durability",
    "DurabilityMode",
    "EarlyStopping",
    "EpsilonPlacement",
    "ExpiryAction",
    "Gradient",
    "Hyperparameter",
    "Initialized",
    "InitializerDistribution",
    "LayerComplexity",
    "LayerPadding",
    "Layout",
    "Lease",
    "Limits",
    "LossReduction",
    "LossValue",
    "MetricMode",
    "MetricsReport",
    "MomentumForm",
    "NAdamForm",
    "NesterovForm",
    "NetworkComplexity",
    "NonFinitePolicy",
    "OptserveError",
    "ParameterGroup",
    "ParameterPoint",
    "Parameters",
    "PatienceRule",
    "PendingStep",
    "PlateauState",
    "PoolingForm",
    "Pull",
    "Reason",
    "ReduceOnPlateau",
    "Retry",
    "SessionHandle",
    "SessionInfo",
    "SessionSpec",
    "Snapshot",
    "Snapshots",
    "SparseRows",
    "SparseUpdate",
    "StateTransfer",
    "StepOutcome",
    "StepResult",
    "StepStream",
    "StoppingState",
    "TensorInfo",
    "ThresholdMode",
    "WeightAverage",
    "activations",
    "connect",
    "errors",
    "events",
    "initializers",
    "layers",
    "losses",
    "optimizers",
    "schedules",
    "tls",
]
