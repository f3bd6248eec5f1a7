/** A plan, and one step under it. */

import { type Arrays, byteCountOf, chunked, type Part } from "./chunks.js";
import type { Deadline } from "./deadline.js";
import { type FloatArray, wireDtype } from "./dtypes.js";
import { type Applied, Code, invalid, OptserveError } from "./errors.js";
import { type Gradients, type PlanOptions, pullMessage, type StepOptions, type StepResult } from "./step-options.js";
import { countOf, type SparseRows, type Tensor, tensorMessage } from "./tensor.js";
import * as v1 from "./v1.js";
import { toBytes, type Value } from "./values.js";

/** Number of the field of StepStreamRequest that holds a chunk. */
const CHUNK_FIELD = 4;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The tensors of a session by name. */
export type Layout = ReadonlyMap<string, Value<v1.TensorLayout>>;

/** Number of bytes of all tensors. */
export function layoutBytes(layout: Layout): number {
  return [...layout.values()].reduce((sum, tensor) => sum + tensor.byteCount, 0);
}

/** What the steps of a stream have in common. */
export class Plan {
  /** The encoded message. */
  readonly message: Uint8Array;
  /** Where the gradients are in a step's bytes; undefined until the server has said so. */
  gradients: v1.ByteLayout | undefined;
  /** Where the parameters are in an answer's bytes; undefined if there are none. */
  parameters: v1.ByteLayout | undefined;
  /** Element type of the gradients' bytes; unspecified for each tensor's own. */
  readonly dtype: v1.DataType;

  constructor(
    session: string,
    worker: string,
    workerEpoch: number,
    readonly whole: readonly string[],
    readonly sparse: readonly string[],
    readonly options: PlanOptions,
    readonly validateOnly: boolean,
  ) {
    this.dtype = wireDtype(options.wireDtype);
    const plan = {
      session,
      ...(validateOnly ? {} : { worker, workerEpoch }),
      tensors: whole,
      sparseTensors: sparse,
      gradientDtype: this.dtype,
      pull: options.pull ? pullMessage(options.pull === true ? {} : options.pull) : undefined,
      perTensorNorms: options.perTensorNorms,
    };
    this.message = toBytes(v1.StepStreamRequestSchema, { plan });
  }

  /** Takes the server's answer. */
  answer(planned: v1.StepPlanned): void {
    this.gradients = planned.gradients;
    this.parameters = planned.parameters;
  }
}

/** A step that is not answered yet. */
export class PendingStep {
  readonly result: Promise<StepResult>;
  /** Number of the step within its worker, from its first sending on; 0 before, and for a validation. */
  sequence = 0;
  /** Whether it may have reached the server. */
  isSent = false;
  #settle!: { resolve: (result: StepResult) => void; reject: (error: OptserveError) => void };
  #timer: NodeJS.Timeout | undefined;
  #onAbort: (() => void) | undefined;

  /**
   * @param plan - what it has in common with others.
   * @param gradients - have been checked.
   * @param layout - of the session.
   * @param options - what else it asks for.
   * @param deadline - of its answer.
   */
  constructor(
    readonly plan: Plan,
    private readonly gradients: Gradients,
    private readonly layout: Layout,
    readonly options: StepOptions,
    readonly deadline: Deadline,
  ) {
    this.result = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
  }

  /** Has a function called when the deadline has come or the caller has cancelled. */
  watch(onEnd: (code: Code, message: string, cause?: unknown) => void): void {
    const { timeoutMs } = this.deadline;
    if (timeoutMs <= LONGEST_TIMER_MS) {
      const message = `no answer came within ${Math.round(timeoutMs)} ms`;
      this.#timer = setTimeout(() => onEnd(Code.DEADLINE_EXCEEDED, message), timeoutMs);
    }
    const { signal } = this.options;
    if (signal === undefined) return;
    this.#onAbort = () => onEnd(Code.CANCELLED, "the step was cancelled", signal.reason);
    signal.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** Takes the answer, or the failure. */
  settle(outcome: StepResult | OptserveError): void {
    clearTimeout(this.#timer);
    if (this.#onAbort) this.options.signal?.removeEventListener("abort", this.#onAbort);
    if (outcome instanceof OptserveError) this.#settle.reject(outcome);
    else this.#settle.resolve(outcome);
  }

  /** Fails because a step before it has failed; its caller learns of the cause from that one. */
  abandon(cause: OptserveError): void {
    const applied: Applied = this.isSent ? cause.applied : "no";
    this.result.catch(() => {});
    this.settle(new OptserveError("an earlier step of the stream failed", Code.ABORTED, { applied, cause }));
  }

  /** Its messages, each in pieces. */
  messages(): Generator<Uint8Array[]> {
    const { plan, options } = this;
    const parts: Part[] = [];
    for (const { name, dtype } of plan.gradients?.tensors ?? []) {
      parts.push({ data: elementsOf(this.gradients[name] as FloatArray | Tensor<FloatArray>), dtype });
    }
    const rows = plan.sparse.map((name) => this.gradients[name] as SparseRows);
    for (const [i, { values }] of rows.entries()) {
      const own = this.layout.get(plan.sparse[i] as string)?.dtype as v1.DataType;
      parts.push({ data: values, dtype: plan.dtype === v1.DataType.UNSPECIFIED ? own : plan.dtype });
    }
    const { sequence } = this;
    const { expectedStep, lossScale, overrides, exampleCount, parametersStep } = options;
    const { validateOnly } = plan;
    const byteCount = byteCountOf(parts);
    const rowIndices = rows.map(({ indices }) => tensorMessage({ shape: [indices.length], data: indices }));
    const member = { exampleCount, parametersStep };
    const step = { sequence, byteCount, expectedStep, lossScale, rowIndices, overrides, validateOnly, ...member };
    const head = toBytes(v1.StepStreamRequestSchema, { step });
    return chunked(head, CHUNK_FIELD, parts);
  }
}

/** Whether a gradient is that of some rows. */
export function isSparse(given: FloatArray | Tensor | SparseRows): given is SparseRows {
  return "indices" in given;
}

/** The elements of a flat array or a tensor. */
export function elementsOf(given: FloatArray | Tensor<FloatArray>): FloatArray {
  return "shape" in given ? given.data : given;
}

/**
 * Rejects values that do not belong to the tensors of a session.
 *
 * @throws OptserveError with UNKNOWN_TENSOR or SHAPE_MISMATCH.
 */
export function checkValues(layout: Layout, given: Gradients, argument: string): void {
  for (const [name, value] of Object.entries(given)) {
    const field = `${argument}.${name}`;
    const tensor = layout.get(name);
    if (tensor === undefined) {
      throw invalid(`the session has no tensor "${name}"`, v1.ErrorReason.UNKNOWN_TENSOR, field);
    }
    const { shape } = tensor;
    const fits = isSparse(value)
      ? value.values.length === value.indices.length * countOf(shape.slice(1))
      : "shape" in value
        ? `${value.shape}` === `${shape}`
        : value.length === countOf(shape);
    if (!fits) {
      const message = `${field} does not have the shape [${shape}]`;
      throw invalid(message, v1.ErrorReason.SHAPE_MISMATCH, field);
    }
  }
}

/**
 * Rejects arrays that the parameters do not fit into.
 *
 * @throws RangeError naming the tensor.
 */
export function checkInto(layout: Layout, into: Readonly<Arrays>, names: readonly string[] | undefined): void {
  for (const name of names ?? layout.keys()) {
    const count = countOf(layout.get(name)?.shape ?? []);
    if (into[name]?.length !== count) throw new RangeError(`into.${name} must be an array of ${count} elements`);
  }
}
