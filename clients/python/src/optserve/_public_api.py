"""What `optserve` offers, in one namespace: clients, specifications, results and enums."""

from importlib.metadata import version

from optserve import activations, errors, events, initializers, layers, losses, optimizers, schedules, tls
from optserve._codec.layout import Layout, TensorInfo
from optserve._codec.sparse_rows import SparseRows
from optserve._engine.pending_step import PendingStep
from optserve._engine.step_result import StepResult
from optserve._transport.retry import Retry
from optserve.capabilities import Algorithm, Capabilities, Hyperparameter, Limits
from optserve.client import Client, connect
from optserve.complexity import Complexity, LayerComplexity, NetworkComplexity
from optserve.errors import OptserveError, Reason
from optserve.function_calls import LossValue
from optserve.history import History
from optserve.metrics import MetricsReport, PlateauState, StoppingState
from optserve.parameter_init import Initialized
from optserve.parameters import Parameters, Pull
from optserve.session import SessionHandle
from optserve.session_info import SessionInfo
from optserve.shards import DataPlanState, Shard
from optserve.snapshots import Snapshot, Snapshots
from optserve.specs.enums import (
    AdamaxForm,
    Aggregation,
    AMSGradMaximum,
    Annealing,
    BiasCorrection,
    BoundarySide,
    Convention,
    CooldownOrder,
    Damping,
    DurabilityMode,
    EpsilonPlacement,
    ExpiryAction,
    InitializerDistribution,
    LateContribution,
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
    WorkerState,
)
from optserve.specs.session_spec import (
    ClipByGlobalNorm,
    ClipByTensorNorm,
    ClipByValue,
    Coordination,
    CoordinationAsync,
    CoordinationBounded,
    CoordinationRounds,
    CoordinationSolo,
    CoordinationSync,
    DataPlan,
    Durability,
    EarlyStopping,
    Gradient,
    Lease,
    ParameterGroup,
    ReduceOnPlateau,
    SessionSpec,
    WeightAverage,
)
from optserve.state_transfer import StateTransfer
from optserve.stream import StepStream
from optserve.workers import Member, Worker

__version__ = version("optserve")

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
    "Aggregation",
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
    "Coordination",
    "CoordinationAsync",
    "CoordinationBounded",
    "CoordinationRounds",
    "CoordinationSolo",
    "CoordinationSync",
    "Damping",
    "DataPlan",
    "DataPlanState",
    "Durability",
    "DurabilityMode",
    "EarlyStopping",
    "EpsilonPlacement",
    "ExpiryAction",
    "Gradient",
    "History",
    "Hyperparameter",
    "Initialized",
    "InitializerDistribution",
    "LateContribution",
    "LayerComplexity",
    "LayerPadding",
    "Layout",
    "Lease",
    "Limits",
    "LossReduction",
    "LossValue",
    "Member",
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
    "Shard",
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
    "Worker",
    "WorkerState",
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
