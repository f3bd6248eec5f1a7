/** A handle of a session on the server. */

import { randomUUID } from "node:crypto";
import { type Arrays, byteCountOf, chunked, Reception } from "./chunks.js";
import type { Connection } from "./connection.js";
import type { CallOptions, Deadline } from "./deadline.js";
import { type FloatArray, type WireDtype, wireDtype } from "./dtypes.js";
import { Code, OptserveError } from "./errors.js";
import { StepEngine } from "./step-engine.js";
import {
  type Gradients,
  type PlanOptions,
  type Pull,
  pullMessage,
  type StepOptions,
  type StepResult,
} from "./step-options.js";
import { checkInto, checkValues, elementsOf, type Layout, layoutBytes } from "./step-plan.js";
import { StepStream, type StreamOptions } from "./step-stream.js";
import type { Tensor } from "./tensor.js";
import * as v1 from "./v1.js";
import { toBytes, toValue, type Value } from "./values.js";

const method = v1.SessionService.method;

/** The state of a session. */
export type SessionInfo = Value<v1.Session>;

/** Options of `SessionHandle.pull`. */
export interface PullCallOptions extends Pull, CallOptions {
  /** Sends no values unless the session's step is greater. */
  ifNewerThanStep?: number | undefined;
  /** Waits until the session's step is greater. */
  newerThanStep?: number | undefined;
  /** Arrays that are filled; new ones when left out. */
  into?: Readonly<Arrays> | undefined;
}

/** A worker's membership in a session. */
export interface Membership {
  /** The worker's epoch; steps of an earlier one are rejected as FENCED. */
  epoch: number;
  /** The lowest number that no other member has. */
  rank: number;
  /** Seconds without a call after which the membership ends. */
  leaseSeconds: number;
}

/** Parameters that were read. */
export interface Parameters {
  /** The session's step. */
  step: number;
  /** Whether there are values; false only with `ifNewerThanStep`. */
  modified: boolean;
  /** The values by tensor name. */
  arrays: Arrays;
}

/**
 * A session on the server.
 *
 * A handle is a worker: it numbers its steps, and each is applied once, also if the connection is lost and
 * the step is sent again. Steps that are taken at the same time are sent one after the other.
 *
 * After `join`, its steps carry the epoch of the membership, and the step of the parameters that the handle
 * received last; they may wait for other members. Every step renews the lease, and so does `Client.workers.renewLease`.
 */
export class SessionHandle {
  /** The session as the last answer described it. */
  info: SessionInfo;
  readonly #layout: Layout;
  #engine: StepEngine | undefined;
  #lastStep: Promise<unknown> = Promise.resolve();
  #epoch = 0;
  #parametersStep = 0;

  /** @internal */
  constructor(
    private readonly connection: Connection,
    session: v1.Session | undefined,
    readonly worker: string = randomUUID(),
  ) {
    if (session === undefined) throw new OptserveError("the answer has no session", Code.INTERNAL);
    this.info = toValue(session);
    this.#layout = new Map(this.info.layout.map((tensor) => [tensor.name, tensor]));
  }

  /** The resource name, `sessions/{id}`. */
  get name(): string {
    return this.info.name;
  }

  /**
   * Takes one step.
   *
   * The gradients' arrays must not change before the promise is settled.
   *
   * @param gradients - by tensor name. Tensors that are left out do not change.
   * @throws OptserveError if the step was rejected, or its result could not be learned before the deadline
   * (`applied` is then `"unknown"`): taking it again with the same gradients applies it once.
   */
  step(gradients: Gradients, options: PlanOptions & StepOptions = {}): Promise<StepResult> {
    const { pull, wireDtype, perTensorNorms, ...own } = options;
    const take = async () => {
      this.#engine ??= this.#newEngine(this.worker, 1);
      const member = this.#epoch ? { parametersStep: this.#parametersStep } : {};
      const result = await this.#engine.step(gradients, { pull, wireDtype, perTensorNorms }, { ...member, ...own });
      if (pull) this.#parametersStep = result.parametersStep;
      return result;
    };
    const result = this.#lastStep.then(take);
    this.#lastStep = result.catch(() => {});
    return result;
  }

  /** Opens a stream for many steps. */
  stream(options: StreamOptions = {}): StepStream {
    const { worker = randomUUID(), window = 8, ...plan } = options;
    return new StepStream(this.#newEngine(worker, window), plan, window);
  }

  /** Reads parameters. */
  async pull(options: PullCallOptions = {}): Promise<Parameters> {
    const { ifNewerThanStep, newerThanStep, into, ...pull } = options;
    if (into) checkInto(this.#layout, into, pull.tensors);
    const request = { name: this.name, pull: pullMessage(pull), ifNewerThanStep, newerThanStep };
    const attempt = async (deadline: Deadline) => {
      const answer = this.connection.serverStream(method.pullParameters, request, options.signal, deadline);
      const parameters: Parameters = { step: 0, modified: true, arrays: {} };
      let reception: Reception | undefined;
      for await (const { header, chunk } of answer) {
        if (header) {
          reception = header.notModified ? undefined : new Reception(header.layout, Number(header.byteCount), into);
          parameters.step = Number(header.step);
          parameters.modified = !header.notModified;
        }
        if (chunk) reception?.add(Number(chunk.byteOffset), chunk.data);
      }
      if (reception && !reception.isComplete) throw truncated();
      return { ...parameters, arrays: reception?.arrays ?? {} };
    };
    const parameters = await this.connection.retry(attempt, options, layoutBytes(this.#layout));
    this.#parametersStep = parameters.step;
    return parameters;
  }

  /**
   * Makes the handle's worker a member of the session. A worker that joins again takes the place of its
   * earlier incarnation.
   */
  async join(
    options: CallOptions & {
      /** Seconds; the server's default when left out. */
      leaseSeconds?: number | undefined;
    } = {},
  ): Promise<Membership> {
    const { name: session, worker } = this;
    const request = { session, worker, leaseSeconds: options.leaseSeconds };
    const joined = toValue(await this.connection.call(v1.WorkerService.method.joinSession, request, options));
    this.close(); // the next stream begins with the epoch
    this.#epoch = joined.epoch;
    this.#parametersStep = joined.session?.step ?? 0;
    return { epoch: joined.epoch, rank: joined.rank, leaseSeconds: joined.leaseSeconds };
  }

  /** Ends the membership. Later steps are those of no member. */
  async leave(options: CallOptions = {}): Promise<void> {
    const membership = { session: this.name, worker: this.worker, workerEpoch: this.#epoch };
    this.close();
    this.#epoch = 0;
    await this.connection.call(v1.WorkerService.method.leaveSession, membership, options);
  }

  /**
   * Writes parameters: all given ones, or none.
   *
   * @param values - by tensor name.
   */
  async push(
    values: Readonly<Record<string, FloatArray | Tensor<FloatArray>>>,
    options: CallOptions & {
      /** The step that the session must have. */
      expectedStep?: number | undefined;
      /** Element type to send them in; each tensor's own when left out. */
      wireDtype?: WireDtype | undefined;
      /** Whether the tensors' optimizer state is initialized. */
      resetState?: boolean | undefined;
    } = {},
  ): Promise<SessionInfo> {
    checkValues(this.#layout, values, "values");
    const given = [...this.#layout.values()].filter(({ name }) => name in values);
    const dtype = wireDtype(options.wireDtype);
    const parts = given.map((tensor) => ({
      data: elementsOf(values[tensor.name] as FloatArray),
      dtype: dtype === v1.DataType.UNSPECIFIED ? tensor.dtype : dtype,
    }));
    const { expectedStep, resetState } = options;
    const tensors = given.map(({ name }) => name);
    const byteCount = byteCountOf(parts);
    const header = {
      name: this.name,
      requestId: randomUUID(),
      expectedStep,
      tensors,
      wireDtype: dtype,
      resetState,
      byteCount,
    };
    const head = toBytes(v1.PushParametersRequestSchema, { header });
    const messages = () => chunked(head, 2, parts);
    const response = await this.connection.upload(method.pushParameters, messages, options, byteCount);
    if (response.session !== undefined) this.info = toValue(response.session);
    return this.info;
  }

  /** Deletes the session and everything it holds. */
  async delete(options: CallOptions = {}): Promise<void> {
    this.close();
    await this.connection.call(method.deleteSession, { name: this.name }, options);
  }

  /** Ends the handle's stream; the session stays on the server, and the next step opens another stream. */
  close(): void {
    this.#engine?.cancel();
    this.#engine = undefined;
  }

  #newEngine(worker: string, window: number): StepEngine {
    return new StepEngine(this.connection, this.name, this.#layout, worker, window, this.#epoch);
  }
}

const truncated = () => new OptserveError("the answer ended before it was complete", Code.UNAVAILABLE);
