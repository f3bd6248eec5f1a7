/** The gRPC channel to a server, and how calls are made on it. */

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { endianness } from "node:os";
import type * as pb from "@bufbuild/protobuf";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import { allowance, type CallOptions, Deadline, retry } from "./deadline.js";
import serviceConfig from "./gen/service_config.json" with { type: "json" };
import { type Init, toMessage } from "./values.js";

/** Options of `connect`. */
export interface ConnectOptions {
  /** Bearer token to send with every call; `OPTSERVE_TOKEN` when left out. */
  token?: string | undefined;
  /** TLS with the system's authorities, or with what is given; that of `OPTSERVE_CA` when left out. */
  tls?: boolean | TlsOptions | undefined;
  /** Milliseconds that a call may take, with all its attempts; 60,000 when left out. */
  timeoutMs?: number | undefined;
  /**
   * Whether steps use a TCP connection beside gRPC, if there is no TLS and the server offers one; true when
   * left out. If that fails, they use gRPC.
   */
  dataConnections?: boolean | undefined;
  /** Further options of the gRPC channel. */
  channelOptions?: grpc.ChannelOptions | undefined;
}

/** Certificates and keys, as PEM. */
export interface TlsOptions {
  /** Certificates of the trusted authorities. */
  ca?: string | Buffer | undefined;
  /** This client's own certificate chain, for mutual TLS. */
  cert?: string | Buffer | undefined;
  /** The private key of that certificate. */
  key?: string | Buffer | undefined;
}

const CHANNEL_OPTIONS: grpc.ChannelOptions = {
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  // More often than balancers forget a silent connection (350 s), and less often than servers suffer (300 s).
  "grpc.keepalive_time_ms": 330_000,
  "grpc.keepalive_timeout_ms": 20_000,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
  "grpc.use_local_subchannel_pool": 1,
  // Calls are repeated here; for repeats of its own, gRPC would keep what is sent.
  "grpc.enable_retries": 0,
  "grpc.service_config": JSON.stringify(serviceConfig),
};
const LOOPBACK = /^(unix:|(ipv4:|dns:)?(localhost|127(\.\d+){3})(:|$)|(ipv6:)?\[::1\])/;

/** A gRPC channel and the defaults of every call. */
export class Connection {
  readonly timeoutMs: number;
  /** Where data connections are made; undefined if there are none. */
  dataAddress: { host: string; port: number } | undefined;
  /** What is cancelled when the connection is closed. */
  readonly closables = new Set<{ cancel(): void }>();
  readonly #client: grpc.Client;
  readonly #metadata = new grpc.Metadata();

  constructor(target: string, options: ConnectOptions) {
    if (endianness() !== "LE") throw new Error("optserve needs a little-endian machine");
    this.timeoutMs = options.timeoutMs ?? 60_000;
    const token = options.token ?? process.env.OPTSERVE_TOKEN;
    if (token) this.#metadata.set("authorization", `Bearer ${token}`);
    const { OPTSERVE_CA: caPath } = process.env;
    const tls = options.tls ?? (caPath ? { ca: readFileSync(caPath) } : false);
    const address = /^(?:dns:|ipv4:)?\/*(?<host>[\w.-]+):(?<port>\d+)$/.exec(target)?.groups;
    if (address?.host && !tls && options.dataConnections !== false) {
      this.dataAddress = { host: address.host, port: Number(address.port) };
    }
    this.#client = new grpc.Client(target, channelCredentials(tls), {
      ...CHANNEL_OPTIONS,
      // A proxy elsewhere cannot reach a loopback address of this machine.
      "grpc.enable_http_proxy": LOOPBACK.test(target) ? 0 : 1,
      ...options.channelOptions,
    });
  }

  /** Makes a unary call, again and again until its deadline. */
  call<I extends pb.DescMessage, O extends pb.DescMessage>(
    method: pb.DescMethodUnary<I, O>,
    init: Init<pb.MessageShape<I>>,
    options: CallOptions = {},
  ): Promise<pb.MessageShape<O>> {
    const isChange = method.input.fields.some(({ name }) => name === "request_id");
    const request = toMessage(method.input, isChange ? { requestId: randomUUID(), ...init } : init);
    return this.retry(
      (deadline) =>
        new Promise((resolve, reject) => {
          const call = this.#client.makeUnaryRequest(
            pathOf(method),
            serializer(method.input),
            deserializer(method.output),
            request,
            this.#metadata,
            { deadline: deadline.date() },
            answered(resolve, reject),
          );
          cancelWith(call, options.signal);
        }),
      options,
    );
  }

  /** Opens a call whose answer is a stream. */
  serverStream<I extends pb.DescMessage, O extends pb.DescMessage>(
    method: pb.DescMethodServerStreaming<I, O>,
    init: Init<pb.MessageShape<I>>,
    signal: AbortSignal | undefined,
    deadline?: Deadline,
  ): AsyncIterable<pb.MessageShape<O>> {
    const call = this.#client.makeServerStreamRequest(
      pathOf(method),
      serializer(method.input),
      deserializer(method.output),
      toMessage(method.input, init),
      this.#metadata,
      { deadline: deadline?.date() ?? Number.POSITIVE_INFINITY },
    );
    cancelWith(call, signal);
    return call;
  }

  /** Sends encoded messages, again and again until the deadline, and returns the answer. */
  upload<I extends pb.DescMessage, O extends pb.DescMessage>(
    method: pb.DescMethodClientStreaming<I, O>,
    messages: () => Iterable<readonly Uint8Array[]>,
    options: CallOptions,
    byteCount: number,
  ): Promise<pb.MessageShape<O>> {
    const attempt = (deadline: Deadline) =>
      new Promise<pb.MessageShape<O>>((resolve, reject) => {
        const call = this.#client.makeClientStreamRequest(
          pathOf(method),
          identity,
          deserializer(method.output),
          this.#metadata,
          { deadline: deadline.date() },
          answered(resolve, reject),
        );
        cancelWith(call, options.signal);
        void (async () => {
          for (const pieces of messages()) await write(call, pieces);
          call.end();
        })();
      });
    return this.retry(attempt, options, byteCount);
  }

  /** Opens a call with streams both ways, whose requests are encoded already. */
  duplex<I extends pb.DescMessage, O extends pb.DescMessage>(
    method: pb.DescMethodBiDiStreaming<I, O>,
  ): grpc.ClientDuplexStream<Buffer, pb.MessageShape<O>> {
    const path = pathOf(method);
    return this.#client.makeBidiStreamRequest(path, identity, deserializer(method.output), this.#metadata);
  }

  /** Makes a call that may be repeated until it succeeds or its deadline has come. */
  async retry<T>(attempt: (deadline: Deadline) => Promise<T>, options: CallOptions, byteCount = 0): Promise<T> {
    const timeoutMs = options.timeoutMs ?? allowance(this.timeoutMs, byteCount);
    return retry(attempt, new Deadline(timeoutMs), options.signal);
  }

  /** Closes the channel; open streams end. */
  close(): void {
    for (const closable of this.closables) closable.cancel();
    this.#client.close();
  }
}

/** Writes a message that is given in pieces to a call, and waits until the connection has taken it. */
export function write(
  call: { write(message: Buffer, done: () => void): unknown },
  pieces: readonly Uint8Array[],
): Promise<void> {
  return new Promise((resolve) => call.write(Buffer.concat(pieces), () => resolve()));
}

function channelCredentials(tls: boolean | TlsOptions): grpc.ChannelCredentials {
  if (!tls) return grpc.credentials.createInsecure();
  const { ca, cert, key } = tls === true ? ({} as TlsOptions) : tls;
  if ((cert === undefined) !== (key === undefined)) throw new TypeError("cert and key go together");
  return grpc.credentials.createSsl(pem(ca), pem(key), pem(cert));
}

const pem = (given: string | Buffer | undefined) => (given === undefined ? null : Buffer.from(given));

function answered<T>(resolve: (answer: T) => void, reject: (error: unknown) => void) {
  return (error: unknown, answer?: T) => (error ? reject(error) : resolve(answer as T));
}

function pathOf(method: pb.DescMethod): string {
  return `/${method.parent.typeName}/${method.name}`;
}

const serializer =
  <D extends pb.DescMessage>(schema: D) =>
  (message: pb.MessageShape<D>) =>
    Buffer.from(toBinary(schema, message));
const deserializer =
  <D extends pb.DescMessage>(schema: D) =>
  (bytes: Buffer): pb.MessageShape<D> =>
    fromBinary(schema, bytes);

const identity = (bytes: Buffer) => bytes;

function cancelWith(
  call: { cancel(): void; on(event: "status", done: () => void): unknown },
  signal?: AbortSignal,
): void {
  if (signal === undefined) return;
  const cancel = () => call.cancel();
  signal.addEventListener("abort", cancel, { once: true });
  call.on("status", () => signal.removeEventListener("abort", cancel));
  if (signal.aborted) cancel();
}
