/** The client: sessions and functions of one server. */

import { randomUUID } from "node:crypto";
import { chunked } from "./chunks.js";
import { Connection, type ConnectOptions } from "./connection.js";
import type { CallOptions, Deadline } from "./deadline.js";
import type { FloatArray, WireDtype } from "./dtypes.js";
import { wireDtype } from "./dtypes.js";
import { Code, OptserveError } from "./errors.js";
import { SessionHandle, type SessionInfo } from "./session.js";
import { type Tensor, tensorMessage, tensorOf } from "./tensor.js";
import * as v1 from "./v1.js";
import { type Init, toBytes, toValue, type Value } from "./values.js";

const sessions = v1.SessionService.method;
const functions = v1.FunctionService.method;

/** Parameters with more bytes are uploaded after their session is created. */
const INLINE_BYTES = 1 << 20;

/** What a session's parameter is at first: a tensor, or what `initialized` and `upload` return. */
export type InitialValue = Tensor<FloatArray> | InitialSource;
/** A parameter's initial value that does not come with the request. */
export type InitialSource = Pick<Init<v1.ParameterInit>, "source">;
/** Element types of parameters. */
export type ParameterDtype = Extract<WireDtype, "float32" | "float64">;

/** A parameter that the server computes, from the session's seed. */
export function initialized(
  shape: readonly number[],
  spec: Init<v1.InitializerSpec>,
  dtype: ParameterDtype = "float32",
): InitialSource {
  return { source: { case: "initializer", value: { dtype: wireDtype(dtype), shape, spec } } };
}

/** A parameter that is written with `SessionHandle.push` before the first step. */
export function upload(shape: readonly number[], dtype: ParameterDtype = "float32"): InitialSource {
  return { source: { case: "upload", value: { dtype: wireDtype(dtype), shape } } };
}

/**
 * Returns a client. It connects at its first call, and again whenever the connection is lost.
 *
 * @param target - `host:port`, `unix:/path`, or another target of gRPC; `OPTSERVE_SERVER` when left out, or
 * else localhost:50051.
 */
export function connect(target?: string, options: ConnectOptions = {}): Client {
  return new Client(new Connection(target ?? process.env.OPTSERVE_SERVER ?? "localhost:50051", options));
}

/** A client of one server, which `connect` returns. */
export class Client {
  /** @internal */
  constructor(private readonly connection: Connection) {}

  /**
   * Creates a session.
   *
   * @param parameters - their initial values by name. Tensors of more than 1 MiB in total are uploaded after the
   * session is created; if that fails, the session is deleted.
   * @param spec - the optimizer, and what else the session is to do.
   */
  async createSession(
    parameters: Readonly<Record<string, InitialValue>>,
    spec: Init<v1.SessionSpec>,
    options: CallOptions & {
      /** Last part of the session's name; chosen by the server when left out. */
      sessionId?: string | undefined;
      /** Seed of the initializers. */
      seed?: number | bigint | undefined;
    } = {},
  ): Promise<SessionHandle> {
    const given = Object.entries(parameters);
    const bytes = given.reduce((sum, [, value]) => sum + ("data" in value ? value.data.byteLength : 0), 0);
    const later: Record<string, Tensor<FloatArray>> = {};
    const inits = given.map(([name, value]): Init<v1.ParameterInit> => {
      if (!("data" in value)) return { name, ...value };
      if (bytes <= INLINE_BYTES) return { name, source: { case: "value", value: tensorMessage(value) } };
      later[name] = value;
      return { name, ...upload(value.shape, value.data instanceof Float64Array ? "float64" : "float32") };
    });
    const { seed, sessionId } = options;
    const request = { requestId: randomUUID(), sessionId, spec, parameters: inits, seed };
    const { session } = await this.connection.call(sessions.createSession, request, options);
    const handle = new SessionHandle(this.connection, session);
    if (Object.keys(later).length === 0) return handle;
    await handle.push(later, { signal: options.signal }).catch(async (error) => {
      await handle.delete().catch(() => {});
      throw error;
    });
    return handle;
  }

  /**
   * Makes a handle of a session that exists.
   *
   * @param name - `sessions/{id}`, or the id alone.
   */
  async session(
    name: string,
    options: CallOptions & {
      /**
       * Name under which the handle numbers its steps; a random one when left out. A program that is started
       * again continues under its earlier name. No two handles or streams may use one name at the same time.
       */
      worker?: string | undefined;
    } = {},
  ): Promise<SessionHandle> {
    const request = { name: name.includes("/") ? name : `sessions/${name}` };
    const { session } = await this.connection.call(sessions.getSession, request, options);
    return new SessionHandle(this.connection, session, options.worker);
  }

  /** Yields the server's sessions in the order of their names. */
  async *listSessions(options: CallOptions = {}): AsyncGenerator<SessionInfo> {
    let pageToken = "";
    do {
      const page = await this.connection.call(sessions.listSessions, { pageToken }, options);
      yield* toValue(page.sessions);
      pageToken = page.nextPageToken;
    } while (pageToken);
  }

  /** Creates a session from what `SessionHandle.export` has read, from this or another server. */
  async importSession(
    file: Uint8Array,
    options: CallOptions & { sessionId?: string | undefined } = {},
  ): Promise<SessionHandle> {
    const header = { requestId: randomUUID(), sessionId: options.sessionId, byteCount: file.length };
    const head = toBytes(v1.ImportSnapshotRequestSchema, { header });
    const parts = [{ data: file, dtype: v1.DataType.UNSPECIFIED }];
    const attempt = (deadline: Deadline) =>
      this.connection.upload(sessions.importSnapshot, chunked(head, 2, parts), options.signal, deadline);
    const { session } = await this.connection.retry(attempt, options, file.length);
    return new SessionHandle(this.connection, session);
  }

  /**
   * Evaluates a schedule.
   *
   * @param at - the steps, or a range of which `stop` is no part.
   * @returns the learning rate at each step.
   */
  async evaluateSchedule(
    schedule: Init<v1.ScheduleSpec>,
    at: readonly number[] | { start?: number; stop: number; stride?: number },
    options: CallOptions = {},
  ): Promise<Float64Array> {
    const request = {
      schedule,
      at: "stop" in at ? { case: "range" as const, value: at } : { case: "steps" as const, value: { steps: at } },
    };
    const { values } = await this.connection.call(functions.evaluateSchedule, request, options);
    return required<Float64Array>(values).data;
  }

  /**
   * Computes a loss.
   *
   * @returns the reduced loss, unless the loss has no reduction; its gradient with respect to the prediction,
   * unless `gradient` is false; and the values of the examples if `perExample` is true.
   */
  async loss<T extends FloatArray>(
    loss: Init<v1.LossSpec>,
    prediction: Tensor<T>,
    target: Tensor,
    options: CallOptions & {
      sampleWeight?: Tensor<T> | undefined;
      gradient?: boolean | undefined;
      perExample?: boolean | undefined;
    } = {},
  ): Promise<{ value: number | undefined; gradient?: Tensor<T>; perExample?: Tensor<T> }> {
    const { gradient = true, perExample = false } = options;
    const tensors = { prediction: tensorMessage(prediction), target: tensorMessage(target) };
    const sampleWeight = options.sampleWeight && tensorMessage(options.sampleWeight);
    const request = { loss, ...tensors, sampleWeight, gradient, perExample };
    const answer = await this.connection.call(functions.computeLoss, request, options);
    return {
      value: answer.value,
      ...(gradient && { gradient: required<T>(answer.gradient) }),
      ...(perExample && { perExample: required<T>(answer.perExample) }),
    };
  }

  /**
   * Computes an activation.
   *
   * @param options - `slope` for prelu only.
   */
  async activation<T extends FloatArray>(
    activation: Init<v1.ActivationSpec>,
    input: Tensor<T>,
    options: CallOptions & { slope?: Tensor<T> | undefined } = {},
  ): Promise<Tensor<T>> {
    const request = { activation, input: tensorMessage(input), slope: options.slope && tensorMessage(options.slope) };
    const { output } = await this.connection.call(functions.computeActivation, request, options);
    return required<T>(output);
  }

  /**
   * Computes an activation's vector-Jacobian product.
   *
   * @param outputGradient - the gradient with respect to the output.
   * @returns the gradient with respect to the input, and to the slope if the activation has one.
   */
  async activationGradient<T extends FloatArray>(
    activation: Init<v1.ActivationSpec>,
    input: Tensor<T>,
    outputGradient: Tensor<T>,
    options: CallOptions & { slope?: Tensor<T> | undefined } = {},
  ): Promise<{ input: Tensor<T>; slope?: Tensor<T> }> {
    const request = {
      activation,
      input: tensorMessage(input),
      outputGradient: tensorMessage(outputGradient),
      slope: options.slope && tensorMessage(options.slope),
    };
    const answer = await this.connection.call(functions.computeActivationGradient, request, options);
    const { slopeGradient } = answer;
    return { input: required<T>(answer.inputGradient), ...(slopeGradient && { slope: tensorOf<T>(slopeGradient) }) };
  }

  /** Computes the operations and the memory of a network, layer by layer. */
  async estimateComplexity(
    network: Init<v1.NetworkSpec>,
    options: CallOptions & {
      /** Examples in one batch; 1 when left out. */
      batchSize?: number | undefined;
      /** Element type of parameters, outputs and optimizer state; float32 when left out. */
      dtype?: WireDtype | undefined;
      /** The optimizer whose state is counted. */
      optimizer?: Init<v1.OptimizerSpec> | undefined;
    } = {},
  ): Promise<Value<v1.EstimateComplexityResponse>> {
    const { batchSize, dtype, optimizer } = options;
    const request = { network, batchSize, dtype: wireDtype(dtype), optimizer };
    return toValue(await this.connection.call(functions.estimateComplexity, request, options));
  }

  /** Describes the server: its algorithms, element types, limits and features. */
  async capabilities(options: CallOptions = {}): Promise<Value<v1.GetCapabilitiesResponse>> {
    return toValue(await this.connection.call(v1.CapabilitiesService.method.getCapabilities, {}, options));
  }

  /** Closes the connection. Steps in flight fail; whether they are applied stays unknown. */
  close(): void {
    this.connection.close();
  }
}

function required<T extends FloatArray>(message: v1.Tensor | undefined): Tensor<T> {
  if (message === undefined) throw new OptserveError("the answer has no tensor", Code.INTERNAL);
  return tensorOf<T>(message);
}
