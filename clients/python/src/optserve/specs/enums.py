"""Enums of the contract, without their UNSPECIFIED members.

Written by tools/generate_specs.py from optserve/v1/*.proto; change it there.
"""

from __future__ import annotations

from enum import IntEnum


class Convention(IntEnum):
    """A named set of defaults.

    A convention fills the fields that a specification leaves unset and does nothing else.
    """

    KERAS = 1
    """Keras 3."""

    TORCH = 2
    """PyTorch."""

    OPTAX = 3
    """optax, and JAX for what optax does not define."""

    LECTURE = 4
    """The lecture notes from which the service originates.

    exponential-moving-average momentum, no epsilon, bias corrections as printed there.
    """


class ErrorReason(IntEnum):
    """Reasons of errors.

    Sent as google.rpc.ErrorInfo.reason without the ERROR_REASON_ prefix, in the domain "optserve.v1".
    Each ErrorInfo also has the metadata {"applied": "no"} or {"applied": "unknown"}, which are not listed
    here.
    """

    FIELD_REQUIRED = 1
    """INVALID_ARGUMENT.

    A required field is missing. Example: field "spec.optimizer".
    """

    OUT_OF_RANGE = 2
    """INVALID_ARGUMENT.

    A value lies outside its range. Example: field "spec.optimizer.adam.beta1", metadata {"range": "in [0,
    1)"}.
    """

    UNSUPPORTED_VALUE = 3
    """INVALID_ARGUMENT.

    An enum value that the server does not know or that is not allowed here, or a field of a step that it
    does not know. Example: field "spec.optimizer.rmsprop.momentum_form".
    """

    CONFLICTING_FIELDS = 4
    """INVALID_ARGUMENT.

    Two fields contradict each other. Example: field "spec.optimizer.adam.learning_rate" together with a
    schedule.
    """

    MALFORMED_NAME = 5
    """INVALID_ARGUMENT.

    A resource name or identifier is malformed. Example: field "name".
    """

    INVALID_PAGE_TOKEN = 6
    """INVALID_ARGUMENT.

    A page token that the server did not return.
    """

    SESSION_NOT_FOUND = 7
    """NOT_FOUND.

    Metadata {"name": "sessions/x"}.
    """

    SESSION_EXISTS = 8
    """ALREADY_EXISTS.

    Metadata {"name": "sessions/x"}.
    """

    UNKNOWN_TENSOR = 9
    """INVALID_ARGUMENT.

    No tensor of that name. Example: field "gradients[2].name", metadata {"tensor": "dense/kernal"}.
    """

    DUPLICATE_TENSOR = 10
    """INVALID_ARGUMENT.

    A tensor is named twice.
    """

    MISSING_TENSOR = 11
    """INVALID_ARGUMENT.

    A required tensor is missing.
    """

    SHAPE_MISMATCH = 12
    """INVALID_ARGUMENT.

    Metadata {"tensor", "expected": "[4,3]", "actual": "[3,4]"}.
    """

    DTYPE_MISMATCH = 13
    """INVALID_ARGUMENT.

    An element type that cannot be used here.
    """

    BYTE_LENGTH_MISMATCH = 14
    """INVALID_ARGUMENT.

    Metadata {"tensor", "expected": "48", "actual": "47"}.
    """

    NON_FINITE_GRADIENT = 15
    """INVALID_ARGUMENT.

    A gradient has NaN or infinite elements, as sent or as NonFinitePolicy checks it, and the session
    rejects them. Metadata {"tensor", "count"}.
    """

    SEQUENCE_GAP = 16
    """FAILED_PRECONDITION.

    A sequence was left out. Metadata {"expected": "7", "actual": "9"}.
    """

    SEQUENCE_REUSED = 17
    """FAILED_PRECONDITION.

    The sequence was used with another content. Metadata {"expected", "actual"}.
    """

    SEQUENCE_EXPIRED = 18
    """FAILED_PRECONDITION.

    The result of that sequence is no longer stored. Metadata {"expected", "actual"}.
    """

    STEP_MISMATCH = 19
    """ABORTED.

    The session has another step than expected_step. Metadata {"expected": "5", "current": "6"}.
    """

    REQUEST_ID_REUSED = 20
    """FAILED_PRECONDITION.

    The request_id was used with another content.
    """

    STREAM_TRUNCATED = 21
    """INVALID_ARGUMENT.

    A stream ended before its bytes were complete; nothing of the incomplete part was applied. Metadata
    {"expected", "actual"}; none if a data connection was lost, after which the step may be sent again.
    """

    STREAM_PROTOCOL = 22
    """INVALID_ARGUMENT.

    A message of a stream is not allowed at its position: a step without a plan, a chunk without a header,
    a header before the last step's bytes are complete, a gap, a request for a data connection that is not
    between two steps, or a ticket that was not used in time.
    """

    PARAMETERS_PENDING = 23
    """FAILED_PRECONDITION.

    Parameters are not uploaded yet.
    """

    POINT_UNAVAILABLE = 24
    """FAILED_PRECONDITION.

    The session has no such point: a look-ahead without a look-ahead rule, or an average without a weight
    average.
    """

    LIMIT_EXCEEDED = 25
    """RESOURCE_EXHAUSTED.

    A limit of the server; with RetryInfo if the end of other calls may help, as with max_memory_bytes.
    Metadata {"limit": "max_sessions", "value": "1000"}.
    """

    SHUTTING_DOWN = 26
    """UNAVAILABLE, with RetryInfo.

    The server is shutting down.
    """

    INTERNAL = 27
    """INTERNAL.

    A defect of the server. Metadata {"request_id"}.
    """

    INVALID_EXPRESSION = 28
    """INVALID_ARGUMENT.

    A formula cannot be parsed. Lines and columns count from 1, columns in characters. Example: field
    "loss.custom.expression", metadata {"position": "1:7", "text": "."}.
    """

    STEP_INCOMPLETE = 29
    """FAILED_PRECONDITION.

    A step is partly accumulated. Metadata {"accumulated": "1", "needed": "4"}.
    """

    TRAINING_STOPPED = 30
    """FAILED_PRECONDITION.

    Early stopping has ended the training; UpdateSession with another early_stopping, or none, continues
    it. Metadata {"monitor": "val_loss", "best_step": "40"}.
    """

    UNAUTHENTICATED = 31
    """UNAUTHENTICATED.

    The bearer token in the metadata ("authorization: Bearer ...") is missing, unknown, or no longer
    valid.
    """

    QUOTA_EXCEEDED = 32
    """RESOURCE_EXHAUSTED.

    A quota of the caller's namespace; with RetryInfo if the end of its other calls may help. Metadata
    {"quota": "max_sessions", "value": "10", "namespace": "alice"}.
    """

    MALFORMED_MESSAGE = 33
    """INVALID_ARGUMENT.

    The bytes of a message cannot be decoded.
    """

    STREAM_IDLE = 34
    """UNAVAILABLE, with RetryInfo.

    The stream was idle for longer than the server's time-out; open another one. Metadata {"seconds":
    "600"}.
    """

    SHARED_MEMORY_UNAVAILABLE = 35
    """FAILED_PRECONDITION.

    The server does not share memory: it is disabled or not available on its host. Send chunks.
    """

    REGION_NOT_FOUND = 36
    """FAILED_PRECONDITION.

    The session has no shared memory of that name, or no longer. Share memory again, or send chunks with
    the same gradient_id.
    """

    STORAGE_FULL = 37
    """RESOURCE_EXHAUSTED, with RetryInfo.

    The server's disk is full. The session continues when there is free space.
    """

    STORAGE_UNAVAILABLE = 38
    """UNAVAILABLE, with RetryInfo.

    The server's disk has failed. The same request may succeed later.
    """

    SESSION_DAMAGED = 39
    """DATA_LOSS.

    The session's files are damaged. The server moved them to its quarantine directory, where its operator
    finds them. DeleteSession removes the session.
    """

    SNAPSHOT_NOT_FOUND = 40
    """NOT_FOUND.

    Metadata {"name": "sessions/a/snapshots/100"}.
    """

    SNAPSHOT_DAMAGED = 41
    """DATA_LOSS.

    The snapshot's file is damaged. Use another.
    """

    SNAPSHOT_MALFORMED = 42
    """INVALID_ARGUMENT.

    The bytes are not a complete snapshot.
    """

    DURABILITY_UNAVAILABLE = 43
    """FAILED_PRECONDITION.

    The server has no data directory, or the session is held in memory only.
    """

    FENCED = 44
    """FAILED_PRECONDITION.

    The worker's epoch has ended: it left, its lease ran out, or it joined again. Join again, and continue
    with next_sequence. Metadata {"worker": "w1", "epoch": "3", "current": "5"}.
    """

    NOT_A_MEMBER = 45
    """FAILED_PRECONDITION.

    The session's coordination takes steps of members only, or the worker never joined. Join the session.
    Metadata {"worker": "w1"}.
    """

    STALE = 46
    """ABORTED.

    The gradient was computed too many steps ago. Pull, and compute it again. Metadata {"parameters_step":
    "5", "current": "12", "limit": "4"}.
    """

    ROUND_CLOSED = 47
    """ABORTED.

    The round that the contribution was computed in is closed. Pull, and take part in the current one.
    Metadata {"parameters_step": "5", "current": "6", "limit": "0"}.
    """

    NO_DATA_PLAN = 48
    """FAILED_PRECONDITION.

    The session has no data plan. Create it with SessionSpec.data_plan, or update it.
    """

    SHARD_NOT_HELD = 49
    """FAILED_PRECONDITION.

    The worker does not hold a shard: it is complete, it was released, or a snapshot was restored. Acquire
    shards, and compute another contribution. Example: field "options.completed_shards[1]", metadata
    {"shard": "17", "worker": "w1"}.
    """


class InitializerDistribution(IntEnum):
    """Shape of a variance-scaling initializer's distribution."""

    UNIFORM = 1
    """Uniform on [-limit, limit]."""

    NORMAL = 2
    """Normal."""

    TRUNCATED_NORMAL = 3
    """Normal redrawn outside two standard deviations, widened to keep the variance."""


class FanMode(IntEnum):
    """The divisor of a variance.

    A matrix is [in, out] and a convolution kernel [..., in, out], of which every position of the
    receptive field counts.
    """

    IN = 1
    """Number of input units of an output unit."""

    OUT = 2
    """Number of output units of an input unit."""

    AVERAGE = 3
    """The mean of both."""


class LossReduction(IntEnum):
    """How per-example losses become one value."""

    SUM_OVER_BATCH_SIZE = 1
    """Their sum divided by their number, independent of the sample weights."""

    SUM = 2
    """Their sum."""

    NONE = 3
    """Not reduced.

    the response carries no value, and the gradient is that of the sum, so that row i is the gradient of
    example i.
    """

    MEAN = 4
    """The same as LossReduction.SUM_OVER_BATCH_SIZE, which Keras calls by both names."""

    MEAN_WITH_SAMPLE_WEIGHT = 5
    """Their sum divided by the sum of their weights; 0 if that is 0.

    An example's weight is its sample weight, multiplied by the weight of its class if targets are class
    indices. Keras' mean_with_sample_weight, and PyTorch's mean of a sparse loss with class weights.
    """


class TripletDistance(IntEnum):
    """The distance of two vectors."""

    MINKOWSKI = 1
    """sum(|u - v|^degree)^(1/degree)."""

    COSINE = 2
    """1 - the cosine of the angle."""


class FenchelYoungRegularizer(IntEnum):
    """The regularizer of a Fenchel-Young loss."""

    SHANNON = 1
    """sum(q*log(q)): the maximum is at softmax(p)."""

    GINI = 2
    """sum(q*(q - 1))/2: the maximum is at sparsemax(p)."""

    NONE = 3
    """0: the maximum is max(p)."""


class LayerPadding(IntEnum):
    """Padding of a sliding window at the borders."""

    VALID = 1
    """No padding: floor((n - span)/stride) + 1 positions."""

    SAME = 2
    """The input is padded to ceil(n/stride) positions."""


class PoolingForm(IntEnum):
    """How pooling reduces a window."""

    MAX = 1
    """The largest element."""

    AVERAGE = 2
    """The mean."""


class MomentumForm(IntEnum):
    """How momentum accumulates.

    p is the parameter, g the gradient, mu the momentum.
    """

    CLASSICAL = 1
    """v = mu*v - lr*g; p += v.

    Keras.
    """

    HEAVY_BALL = 2
    """b = mu*b + (1 - dampening)*g, the first b being g; p -= lr*b.

    PyTorch, optax.
    """

    EMA = 3
    """m = mu*m + (1 - mu)*g; p -= lr*m.

    The lecture.
    """


class NesterovForm(IntEnum):
    """How Nesterov's gradient looks ahead."""

    KERAS = 1
    """v = mu*v - lr*g; p += mu*v - lr*g."""

    TORCH = 2
    """b = mu*b + g; p -= lr*(g + mu*b)."""

    LOOKAHEAD = 3
    """v = mu*v - lr*g; p += v, with g taken at p + mu*v.

    Clients pull that point with ParameterPoint.LOOKAHEAD.
    """

    LOOKAHEAD_EMA = 4
    """m = mu*m + (1 - mu)*g; p -= lr*m, with g taken at p - lr*m.

    Clients pull that point with ParameterPoint.LOOKAHEAD. The lecture.
    """


class EpsilonPlacement(IntEnum):
    """Where epsilon is added in a denominator."""

    INSIDE = 1
    """sqrt(v + epsilon)."""

    OUTSIDE = 2
    """sqrt(v) + epsilon."""


class BiasCorrection(IntEnum):
    """How Adam's moments are corrected for their initialization with zero."""

    FOLDED = 1
    """p -= lr*sqrt(1 - beta2^t)/(1 - beta1^t) * m/(sqrt(v) + epsilon).

    Keras.
    """

    HATTED = 2
    """p -= lr*m_hat/(sqrt(v_hat) + epsilon).

    PyTorch, optax, the paper.
    """

    NONE = 3
    """p -= lr*m/(sqrt(v) + epsilon)."""


class AMSGradMaximum(IntEnum):
    """The quantity whose running maximum AMSGrad takes."""

    RAW = 1
    """Over the second moment, which is corrected afterwards.

    Keras (FOLDED), PyTorch (HATTED).
    """

    CORRECTED = 2
    """Over the corrected second moment.

    optax.
    """

    UNCORRECTED = 3
    """v = max(beta2*v + (1 - beta2)*g^2, v).

    the next average starts from the maximum, without bias correction. The lecture.
    """


class NAdamForm(IntEnum):
    """Nadam's momentum."""

    SCHEDULED = 1
    """beta1 warms up as beta1*(1 - 0.5*0.96^(t*momentum_decay)).

    Keras, PyTorch.
    """

    CONSTANT = 2
    """beta1 is constant.

    optax.
    """


class AdamaxForm(IntEnum):
    """Where Adamax adds epsilon."""

    DENOMINATOR = 1
    """u = max(beta2*u, |g|); the step divides by u + epsilon.

    Keras.
    """

    GRADIENT = 2
    """u = max(beta2*u, |g| + epsilon); the step divides by u.

    PyTorch, optax.
    """


class FedAdamCorrection(IntEnum):
    """How FedAdam is corrected for moments that are initialized with zero."""

    NONE = 1
    """No correction.

    The paper.
    """

    FOLDED_AHEAD = 2
    """lr is multiplied by sqrt(1 - beta2^(t+1))/(1 - beta1^(t+1)): Adam's FOLDED of the next step.

    Flower.
    """


class AdafactorForm(IntEnum):
    """Where Adafactor's epsilon1 enters."""

    SQUARES = 1
    """It is added to every squared gradient.

    Keras, the paper.
    """

    FLOOR = 2
    """It is the lower bound of the mean of the row averages, and its square that of the second moment.

    PyTorch.
    """


class MuonForm(IntEnum):
    """Forms of Muon in frameworks, for a matrix of A rows and B columns."""

    TORCH = 1
    """The norm is at least epsilon; the step is scaled by sqrt(max(1, A/B))."""

    KERAS = 2
    """epsilon is added to the norm of a momentum that is a sum of gradients, not an average.

    the step is not scaled. AdamW's corrections are FOLDED.
    """

    OPTAX = 3
    """epsilon is added to the norm of a bias-corrected average; the step is scaled by sqrt(max(1, B/A)).

    nesterov looks ahead in AdamW as well.
    """


class BoundarySide(IntEnum):
    """Which value holds on a boundary itself."""

    BEFORE = 1
    """The value before it: the new one starts at boundary + 1.

    Keras.
    """

    AFTER = 2
    """The value after it: the new one starts at the boundary.

    PyTorch, optax.
    """


class Annealing(IntEnum):
    """Interpolation between two rates a and b, at a fraction f of the steps."""

    COSINE = 1
    """b + (a - b)*(1 + cos(pi*f))/2."""

    LINEAR = 2
    """a + (b - a)*f."""

    SQUARE_ROOT = 3
    """a + (b - a)*sqrt(f)."""


class OneCycleForm(IntEnum):
    """The steps at which the phases of a one-cycle schedule end."""

    LAST_STEP = 1
    """A fraction f of the cycle ends at step f*total_steps - 1, which may be fractional.

    PyTorch.
    """

    STEP_COUNT = 2
    """A fraction f of the cycle ends at step floor(f*total_steps).

    optax.
    """


class CyclicForm(IntEnum):
    """What the height of a cycle is multiplied by."""

    TRIANGULAR = 1
    """1."""

    TRIANGULAR2 = 2
    """2^-c in cycle number c, counted from 0."""

    EXP_RANGE = 3
    """gamma^s."""


class StepCounting(IntEnum):
    """Which steps a rule counts, as in bias corrections.

    A schedule always counts the session's steps.
    """

    PER_SESSION = 1
    """Every step of the session, independent of the tensors that it has gradients for (Keras, optax)."""

    PER_TENSOR = 2
    """For each tensor, the steps that had a gradient for it (PyTorch)."""


class LateContribution(IntEnum):
    """What is done with a contribution that was computed at an earlier step."""

    DROP = 1
    """It is answered with StepOutcome.DROPPED, and changes nothing."""

    CARRY = 2
    """It counts for the current step."""


class Aggregation(IntEnum):
    """How gradients are aggregated.

    Elements are added one contribution after the other, in the order of ranks and in the parameter's
    element type.
    """

    MEAN = 1
    """The sum divided by the number of contributions, or of examples."""

    SUM = 2
    """The sum."""

    COORDINATE_MEDIAN = 3
    """The median of each element: the mean of the two middle values if there is an even number of them."""

    TRIMMED_MEAN = 4
    """The mean of each element without its smallest and largest values (Yin et al.

    2018).
    """

    NORM_BOUNDED_MEAN = 5
    """The mean of contributions of bounded norm."""


class Damping(IntEnum):
    """A factor by the staleness s."""

    NONE = 1
    """1."""

    INVERSE = 2
    """1/(1 + s)."""

    INVERSE_SQUARE_ROOT = 3
    """1/sqrt(1 + s) (FedBuff)."""

    EXPONENTIAL = 4
    """damping_factor^s."""


class DurabilityMode(IntEnum):
    """Durability modes of a session."""

    JOURNAL = 1
    """Every step and change is on the disk before it is answered, and is recovered bit for bit."""

    SNAPSHOT = 2
    """The whole session is saved every snapshot_steps or snapshot_seconds.

    A crash of the server loses later steps: continue from StepResult.durable_step. Pushes, updates and
    reports are saved immediately, but after their answers.
    """

    EPHEMERAL = 3
    """The session is held in memory only."""


class ExpiryAction(IntEnum):
    """What happens to a session whose lease expired."""

    EVICT = 1
    """It is saved and evicted from memory, and loaded at its next use.

    On a server without a data directory it stays in memory.
    """

    DELETE = 2
    """It is deleted."""


class NonFinitePolicy(IntEnum):
    """How NaN and infinite elements of a gradient are handled.

    The gradient is checked in the parameter's element type after conversion, loss scale, accumulation, l1
    and l2, and before clipping. So finite elements that overflow in one of these count as well.
    """

    REJECT = 1
    """The step is refused with ErrorReason.NON_FINITE_GRADIENT; nothing changes."""

    SKIP = 2
    """The step is answered as skipped; parameters, state and step do not change.

    Under accumulation, only this gradient is dropped: earlier ones are kept, and another one is needed in
    its place (as optax.MultiSteps with skip_not_finite; with torch.amp.GradScaler all of them would be
    lost).
    """

    ALLOW = 3
    """The step is taken."""


class SparseUpdate(IntEnum):
    """How the rows that sparse gradients leave out are handled.

    In both cases, rows that are given more than once are summed first, in the parameter's element type
    and in the order in which they were sent.
    """

    LAZY = 1
    """They and their optimizer state do not change.

    Regularisation, decay, clipping and norms cover the given rows only. The rule counts the session's
    steps, not those of a row. Sparse rows are rejected together with accumulation, a weight average, or a
    rule that reads whole tensors or groups, such as LAMB, Prodigy or Muon; DENSE accepts them.
    """

    DENSE = 2
    """Their gradient is 0: the step is that of the dense gradient, bit for bit."""


class WeightAverageStart(IntEnum):
    """Initial value of a weight average."""

    COPY = 1
    """A copy of the parameters after the first step.

    Keras, PyTorch.
    """

    ZERO_DEBIASED = 2
    """0, and the average is divided by 1 - decay^t after t steps.

    optax.ema.
    """

    ZERO = 3
    """0.

    optax.ema without debias.
    """


class MetricMode(IntEnum):
    """Which values of a metric are better."""

    MIN = 1
    """Smaller ones, as of a loss."""

    MAX = 2
    """Larger ones, as of an accuracy."""


class PatienceRule(IntEnum):
    """When patience ends."""

    REACHED = 1
    """With bad value number patience, but never before the first (Keras, optax)."""

    EXCEEDED = 2
    """With bad value number patience + 1 (PyTorch)."""


class ThresholdMode(IntEnum):
    """How a threshold is measured."""

    ABSOLUTE = 1
    """In the metric's own unit, added to the value.

    value + threshold < best if smaller values are better, value - threshold > best otherwise (Keras).
    """

    RELATIVE = 2
    """Relative to the best value.

    value < best*(1 - threshold), or value > best*(1 + threshold) (PyTorch, optax).
    """

    FROM_BEST = 3
    """In the metric's own unit, subtracted from the best value.

    value < best - threshold, or value > best + threshold (PyTorch's "abs"). Differs from ABSOLUTE by
    rounding only: at a threshold of 0.1, 0.3 is better than 0.4 under FROM_BEST and not under ABSOLUTE.
    """


class CooldownOrder(IntEnum):
    """When the values of a cool-down are counted."""

    BEFORE = 1
    """Before a value is compared: the last one of the cool-down may count as bad (Keras)."""

    AFTER = 2
    """After a value was compared: no value of the cool-down counts as bad (PyTorch, optax)."""


class SessionState(IntEnum):
    """Whether a session can step."""

    READY = 1
    """Steps are taken."""

    AWAITING_PARAMETERS = 2
    """Parameters are not uploaded yet; use PushParameters."""

    STOPPED = 3
    """Early stopping has ended the training.

    UpdateSession with another early_stopping, or none, continues it.
    """


class ParameterPoint(IntEnum):
    """One of a session's parameter-shaped values."""

    PARAMETERS = 1
    """The parameters."""

    LOOKAHEAD = 2
    """The point at which the next gradient is computed, in look-ahead rules."""

    AVERAGE = 3
    """The average of the weights."""


class StepOutcome(IntEnum):
    """Outcome of a step."""

    APPLIED = 1
    """The parameters were updated."""

    ACCUMULATED = 2
    """The gradient was accumulated; the step needs more of them."""

    SKIPPED = 3
    """The gradient was not finite and the policy is SKIP."""

    VALIDATED = 4
    """The request was validated, and nothing was changed."""

    DROPPED = 5
    """Under SYNC: the gradient was computed at an earlier step, and nothing was changed.

    Pull, and continue with the next sequence.
    """


class DataType(IntEnum):
    """Element type of a tensor.

    Every type is little-endian on the wire.
    """

    FLOAT16 = 1
    """IEEE 754 binary16."""

    BFLOAT16 = 2
    """bfloat16: the upper 16 bits of an IEEE 754 binary32."""

    FLOAT32 = 3
    """IEEE 754 binary32."""

    FLOAT64 = 4
    """IEEE 754 binary64."""

    INT32 = 5
    """Signed 32-bit integer, two's complement."""

    INT64 = 6
    """Signed 64-bit integer, two's complement."""


class WorkerState(IntEnum):
    """Whether a worker is a member."""

    ACTIVE = 1
    """It is a member."""

    WAITING = 2
    """A step of it waits for other members."""

    LEFT = 3
    """It has left."""

    EXPIRED = 4
    """Its lease has run out."""


_BY_NAME: dict[str, type[IntEnum]] = {
    "Convention": Convention,
    "ErrorReason": ErrorReason,
    "InitializerDistribution": InitializerDistribution,
    "FanMode": FanMode,
    "LossReduction": LossReduction,
    "TripletDistance": TripletDistance,
    "FenchelYoungRegularizer": FenchelYoungRegularizer,
    "LayerPadding": LayerPadding,
    "PoolingForm": PoolingForm,
    "MomentumForm": MomentumForm,
    "NesterovForm": NesterovForm,
    "EpsilonPlacement": EpsilonPlacement,
    "BiasCorrection": BiasCorrection,
    "AmsgradMaximum": AMSGradMaximum,
    "NadamForm": NAdamForm,
    "AdamaxForm": AdamaxForm,
    "FedAdamCorrection": FedAdamCorrection,
    "AdafactorForm": AdafactorForm,
    "MuonForm": MuonForm,
    "BoundarySide": BoundarySide,
    "Annealing": Annealing,
    "OneCycleForm": OneCycleForm,
    "CyclicForm": CyclicForm,
    "StepCounting": StepCounting,
    "LateContribution": LateContribution,
    "Aggregation": Aggregation,
    "Damping": Damping,
    "DurabilityMode": DurabilityMode,
    "ExpiryAction": ExpiryAction,
    "NonFinitePolicy": NonFinitePolicy,
    "SparseUpdate": SparseUpdate,
    "WeightAverageStart": WeightAverageStart,
    "MetricMode": MetricMode,
    "PatienceRule": PatienceRule,
    "ThresholdMode": ThresholdMode,
    "CooldownOrder": CooldownOrder,
    "SessionState": SessionState,
    "ParameterPoint": ParameterPoint,
    "StepOutcome": StepOutcome,
    "DataType": DataType,
    "WorkerState": WorkerState,
}


def find_enum(name: str) -> type[IntEnum]:
    """The enum that the contract calls ``name``."""
    return _BY_NAME[name]
