/** What a step asks for, and what it gives. */

import type { Arrays } from "./chunks.js";
import type { CallOptions } from "./deadline.js";
import { type FloatArray, type WireDtype, wireDtype } from "./dtypes.js";
import type { SparseRows, Tensor } from "./tensor.js";
import type * as v1 from "./v1.js";
import type { Init, Value } from "./values.js";

/** Gradients by tensor name: flat arrays, tensors whose shape is checked, or some rows of a tensor. */
export type Gradients = Readonly<Record<string, FloatArray | Tensor<FloatArray> | SparseRows>>;

/** Which parameters are read, and how. */
export interface Pull {
  /** Which of the session's values; the parameters when left out. */
  point?: v1.ParameterPoint | undefined;
  /** Element type on the wire; each tensor's own when left out. Values of 16 bits become float32. */
  wireDtype?: WireDtype | undefined;
  /** Names of the tensors; all when left out. */
  tensors?: readonly string[] | undefined;
}

/** What the steps of a stream have in common. */
export interface PlanOptions {
  /** Returns parameters with each result; true for all of them as they are. */
  pull?: boolean | Pull | undefined;
  /** Element type that gradients are sent in; each tensor's own when left out. */
  wireDtype?: WireDtype | undefined;
  /** Returns the norm of each tensor's gradient. */
  perTensorNorms?: boolean | undefined;
}

/** Options of one step. */
export interface StepOptions extends CallOptions {
  /** The step that the session must have. */
  expectedStep?: number | undefined;
  /** Factor of the loss, by which gradients are divided. */
  lossScale?: number | undefined;
  /** Hyperparameters that have other values in this step alone. */
  overrides?: readonly Init<v1.HyperparameterOverride>[] | undefined;
  /** Number of examples of a member's gradient; 1 when left out. */
  exampleCount?: number | undefined;
  /** The step of the parameters that a member's gradient was computed with. */
  parametersStep?: number | undefined;
  /** Checks and measures the step, and applies nothing. */
  validateOnly?: boolean | undefined;
  /** Arrays that are filled with the pulled parameters; new ones when left out. */
  into?: Readonly<Arrays> | undefined;
}

/** The result of a step. */
export type StepResult = Value<v1.StepResult> & {
  /** The pulled parameters; empty if none were asked for. */
  parameters: Arrays;
  /** The step that they belong to. */
  parametersStep: number;
};

/** Pull options as a message. */
export function pullMessage(pull: Pull): Init<v1.PullOptions> {
  return { point: pull.point, wireDtype: wireDtype(pull.wireDtype), tensors: pull.tensors };
}
