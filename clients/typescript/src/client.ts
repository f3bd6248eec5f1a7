/** The client: sessions and functions of one server. */

import { type Calls, callsOf } from "./calls.js";
import { Connection, type ConnectOptions } from "./connection.js";
import type { CallOptions } from "./deadline.js";
import { type FloatArray, type WireDtype, wireDtype } from "./dtypes.js";
import { SessionHandle } from "./session.js";
import { type Tensor, tensorMessage } from "./tensor.js";
import * as v1 from "./v1.js";
import type { Init } from "./values.js";

const method = v1.SessionService.method;

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
  /** Calls for which sessions have no method: metrics, updates, snapshots, forks, events, lists. */
  readonly sessions: Calls<typeof v1.SessionService>;
  /** Leases, and lists of members. */
  readonly workers: Calls<typeof v1.WorkerService>;
  /** Schedules, losses, activations and their gradients, complexity; see `tensorMessage` and `tensorOf`. */
  readonly functions: Calls<typeof v1.FunctionService>;
  /** What the server can do. */
  readonly capabilities: Calls<typeof v1.CapabilitiesService>;

  /** @internal */
  readonly connection: Connection;

  /** @internal */
  constructor(connection: Connection) {
    this.connection = connection;
    this.sessions = callsOf(connection, v1.SessionService);
    this.workers = callsOf(connection, v1.WorkerService);
    this.functions = callsOf(connection, v1.FunctionService);
    this.capabilities = callsOf(connection, v1.CapabilitiesService);
  }

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
    const request = { sessionId, spec, parameters: inits, seed };
    const { session } = await this.connection.call(method.createSession, request, options);
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
    const { session } = await this.connection.call(method.getSession, request, options);
    return new SessionHandle(this.connection, session, options.worker);
  }

  /** Closes the connection. Steps in flight fail; whether they are applied stays unknown. */
  close(): void {
    this.connection.close();
  }
}
