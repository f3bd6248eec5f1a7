/**
 * Optimizer steps as a service: the TypeScript client.
 *
 * The server holds parameters and optimizer state; the client sends gradients and gets parameters back, as
 * flat typed arrays by name. `connect` is where to begin. Enums and messages are in `optserve/v1`.
 *
 * @module
 */

export type { Calls } from "./calls.js";
export type { Arrays } from "./chunks.js";
export * from "./client.js";
export type { ConnectOptions, TlsOptions } from "./connection.js";
export type { CallOptions } from "./deadline.js";
export type { FloatArray, TensorData, WireDtype } from "./dtypes.js";
export { type Applied, Code, type ErrorDetails, OptserveError } from "./errors.js";
export * from "./session.js";
export * from "./snapshots.js";
export * from "./specs.js";
export type { Gradients, PlanOptions, Pull, StepOptions, StepResult } from "./step-options.js";
export { StepStream, type StreamOptions } from "./step-stream.js";
export { type SparseRows, type Tensor, tensor, tensorMessage, tensorOf } from "./tensor.js";
export { ErrorReason } from "./v1.js";
export type { Init, Value } from "./values.js";
