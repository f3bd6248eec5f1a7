/**
 * Optimizer steps as a service: the TypeScript client.
 *
 * The server holds parameters and optimizer state; the client sends gradients and gets parameters back, as
 * flat typed arrays by name. `connect` is where to begin.
 *
 * @module
 */

export type { Arrays } from "./chunks.js";
export {
  Client,
  connect,
  type InitialSource,
  type InitialValue,
  initialized,
  type ParameterDtype,
  upload,
} from "./client.js";
export type { ConnectOptions, TlsOptions } from "./connection.js";
export type { CallOptions } from "./deadline.js";
export type { FloatArray, TensorData, WireDtype } from "./dtypes.js";
export { type Applied, Code, type ErrorDetails, ErrorReason, OptserveError } from "./errors.js";
export { Convention } from "./gen/optserve/v1/convention_pb.js";
export { FanMode, InitializerDistribution } from "./gen/optserve/v1/initializer_spec_pb.js";
export { LossReduction } from "./gen/optserve/v1/loss_spec_pb.js";
export { LayerPadding, PoolingForm } from "./gen/optserve/v1/network_spec_pb.js";
export {
  AdafactorForm,
  AdamaxForm,
  AmsgradMaximum,
  BiasCorrection,
  EpsilonPlacement,
  FedAdamCorrection,
  MomentumForm,
  MuonForm,
  NadamForm,
  NesterovForm,
} from "./gen/optserve/v1/optimizer_spec_pb.js";
export { Annealing, BoundarySide, OneCycleForm } from "./gen/optserve/v1/schedule_spec_pb.js";
export {
  CooldownOrder,
  DurabilityMode,
  ExpiryAction,
  MetricMode,
  NonFinitePolicy,
  ParameterPoint,
  PatienceRule,
  SessionState,
  SparseUpdate,
  StepCounting,
  ThresholdMode,
  WeightAverageStart,
} from "./gen/optserve/v1/session_pb.js";
export { StepOutcome } from "./gen/optserve/v1/session_service_pb.js";
export {
  type ChangeOptions,
  type MetricsReport,
  type Parameters,
  type PullCallOptions,
  type SessionEvent,
  SessionHandle,
  type SessionInfo,
  type Snapshot,
  type StateTransfer,
} from "./session.js";
export {
  type AlgorithmInit,
  activations,
  type Builders,
  initializers,
  layers,
  losses,
  optimizers,
  schedules,
} from "./specs.js";
export type { Gradients, PlanOptions, Pull, StepOptions, StepResult } from "./step-options.js";
export { StepStream, type StreamOptions } from "./step-stream.js";
export { type SparseRows, type Tensor, tensor } from "./tensor.js";
export type { Init, Value } from "./values.js";
