/** A handle of a session on the server. */

import { randomUUID } from "node:crypto";
import { type Arrays, byteCountOf, chunked, Reception } from "./chunks.js";
import type { Connection } from "./connection.js";
import type { CallOptions, Deadline } from "./deadline.js";
import { type FloatArray, type WireDtype, wireDtype } from "./dtypes.js";
import { Code, errorFrom, OptserveError } from "./errors.js";
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
import { type Init, toBytes, toValue, type Value } from "./values.js";

const method = v1.SessionService.method;

/** The state of a session. */
export type SessionInfo = Value<v1.Session>;
/** A snapshot on the server's disk. */
export type Snapshot = Value<v1.Snapshot>;
/** What happened in a session. */
export type SessionEvent = Value<v1.WatchSessionResponse>;
/** The answer to reported metrics. */
export type MetricsReport = Value<v1.ReportMetricsResponse>;
/** What became of one group's optimizer state. */
export type StateTransfer = Value<v1.StateTransfer>;

/** Options of a call that requires a session's step. */
export interface ChangeOptions extends CallOptions {
  /** The step that the session must have. */
  expectedStep?: number | undefined;
}

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
 * received last; they may wait for other members. Every step renews the lease, and so does `renew`.
 */
export class SessionHandle {
  /** The session as the last answer described it; `get` reads it anew. */
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

  /** Renews the lease; needed if more time than the lease passes between two steps. */
  async renew(options: CallOptions = {}): Promise<void> {
    await this.connection.call(v1.WorkerService.method.renewLease, this.#membership(), options);
  }

  /** Ends the membership. Later steps are those of no member. */
  async leave(options: CallOptions = {}): Promise<void> {
    const membership = this.#membership();
    this.close();
    this.#epoch = 0;
    await this.connection.call(v1.WorkerService.method.leaveSession, membership, options);
  }

  /** The members by rank, and then those that were members. */
  async workers(options: CallOptions = {}): Promise<Value<v1.Worker>[]> {
    const method = v1.WorkerService.method.listWorkers;
    return toValue((await this.connection.call(method, { session: this.name }, options)).workers);
  }

  /**
   * Writes parameters: all given ones, or none.
   *
   * @param values - by tensor name.
   */
  async push(
    values: Readonly<Record<string, FloatArray | Tensor<FloatArray>>>,
    options: ChangeOptions & {
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
    const header = { ...this.#change(), expectedStep, tensors, wireDtype: dtype, resetState, byteCount };
    const head = toBytes(v1.PushParametersRequestSchema, { header });
    const attempt = (deadline: Deadline) =>
      this.connection.upload(method.pushParameters, chunked(head, 2, parts), options.signal, deadline);
    const response = await this.connection.retry(attempt, options, byteCount);
    return this.#learn(response.session);
  }

  /**
   * Reports metrics of the current model, such as the loss on a validation set.
   *
   * @param metrics - values by name. Those that the session does not monitor are ignored.
   */
  async reportMetrics(metrics: Readonly<Record<string, number>>, options: ChangeOptions = {}): Promise<MetricsReport> {
    const { expectedStep } = options;
    const request = {
      ...this.#change(),
      metrics: Object.entries(metrics).map(([name, value]) => ({ name, value })),
      expectedStep,
    };
    return toValue(await this.connection.call(method.reportMetrics, request, options));
  }

  /**
   * Replaces the specification between two steps. Optimizer state is carried over by name.
   *
   * @param spec - complete; `info.spec` with changes, for instance.
   * @returns the transfer of each group's state.
   */
  async update(spec: Init<v1.SessionSpec>, options: ChangeOptions = {}): Promise<StateTransfer[]> {
    const { expectedStep } = options;
    const request = { ...this.#change(), spec, expectedStep };
    const response = await this.connection.call(method.updateSession, request, options);
    this.#learn(response.session);
    return toValue(response.transfers);
  }

  /**
   * Yields the session's events, first its current state, until the session is deleted, the loop is left or
   * `signal` cancels.
   *
   * @throws OptserveError with UNAVAILABLE if the connection was lost; watch again.
   */
  async *watch(options: { signal?: AbortSignal | undefined } = {}): AsyncGenerator<SessionEvent> {
    try {
      const request = { name: this.name };
      const events = this.connection.serverStream(method.watchSession, request, options.signal);
      for await (const event of events) yield toValue(event);
    } catch (failure) {
      throw errorFrom(failure);
    }
  }

  /** Reads the session's state. */
  async get(options: CallOptions = {}): Promise<SessionInfo> {
    const response = await this.connection.call(method.getSession, { name: this.name }, options);
    return this.#learn(response.session);
  }

  /** Saves the session on the server's disk, until the snapshot or the session is deleted. */
  async createSnapshot(options: CallOptions = {}): Promise<Snapshot> {
    const { snapshot } = await this.connection.call(method.createSnapshot, this.#change(), options);
    if (snapshot === undefined) throw truncated();
    return toValue(snapshot);
  }

  /** The session's snapshots, the latest first. */
  async listSnapshots(options: CallOptions = {}): Promise<Snapshot[]> {
    const response = await this.connection.call(method.listSnapshots, { name: this.name }, options);
    return toValue(response.snapshots);
  }

  /** Deletes the snapshot of a step. */
  async deleteSnapshot(step: number, options: CallOptions = {}): Promise<void> {
    await this.connection.call(method.deleteSnapshot, this.#change(step), options);
  }

  /** Restores the session from the snapshot of a step, or its parameters alone. */
  async restoreSnapshot(
    step: number,
    options: ChangeOptions & { weightsOnly?: boolean | undefined } = {},
  ): Promise<SessionInfo> {
    const { weightsOnly, expectedStep } = options;
    const request = { ...this.#change(step), weightsOnly, expectedStep };
    return this.#learn((await this.connection.call(method.restoreSnapshot, request, options)).session);
  }

  /** Creates a copy of the session, or of the snapshot of a step. */
  async fork(
    options: CallOptions & {
      /** Last part of the copy's name; chosen by the server when left out. */
      sessionId?: string | undefined;
      /** The step of a snapshot; the session as it is when left out. */
      step?: number | undefined;
    } = {},
  ): Promise<SessionHandle> {
    const request = { ...this.#change(options.step), sessionId: options.sessionId };
    const { session } = await this.connection.call(method.forkSession, request, options);
    return new SessionHandle(this.connection, session);
  }

  /** Reads the session, or the snapshot of a step, as a safetensors file that `Client.importSession` takes. */
  async export(options: CallOptions & { step?: number | undefined } = {}): Promise<Uint8Array> {
    const { name } = this.#change(options.step);
    return this.connection.retry(async (deadline) => {
      const answer = this.connection.serverStream(method.exportSnapshot, { name }, options.signal, deadline);
      let file: Uint8Array | undefined;
      let received = 0;
      for await (const { header, chunk } of answer) {
        if (header) file = new Uint8Array(Number(header.byteCount));
        file?.set(chunk?.data ?? [], received);
        received += chunk?.data.length ?? 0;
      }
      if (file?.length !== received) throw truncated();
      return file;
    }, options);
  }

  /** Deletes the session and everything it holds. */
  async delete(options: CallOptions = {}): Promise<void> {
    this.close();
    await this.connection.call(method.deleteSession, this.#change(), options);
  }

  /** Ends the handle's stream; the session stays on the server, and the next step opens another stream. */
  close(): void {
    this.#engine?.cancel();
    this.#engine = undefined;
  }

  #newEngine(worker: string, window: number): StepEngine {
    return new StepEngine(this.connection, this.name, this.#layout, worker, window, this.#epoch);
  }

  #membership() {
    return { session: this.name, worker: this.worker, workerEpoch: this.#epoch };
  }

  /** The fields that every change has; of the session, or of one of its snapshots. */
  #change(step?: number): { name: string; requestId: string } {
    const snapshot = step === undefined ? "" : `/snapshots/${step}`;
    return { name: this.name + snapshot, requestId: randomUUID() };
  }

  #learn(session: v1.Session | undefined): SessionInfo {
    if (session !== undefined) this.info = toValue(session);
    return this.info;
  }
}

const truncated = () => new OptserveError("the answer ended before it was complete", Code.UNAVAILABLE);
