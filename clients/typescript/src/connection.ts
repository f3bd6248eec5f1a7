/** The gRPC channel to a server, and how calls are made on it. */

import { readFileSync } from "node:fs";
import { endianness } from "node:os";
import {
  type DescMessage,
  type DescMethodBiDiStreaming,
  type DescMethodClientStreaming,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  fromBinary,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import {
  type ChannelCredentials,
  type ChannelOptions,
  type ClientDuplexStream,
  credentials,
  type CallOptions as GrpcCallOptions,
  Client as GrpcClient,
  Metadata,
} from "@grpc/grpc-js";
import { type CallOptions, Deadline, retry } from "./deadline.js";
import { errorFrom } from "./errors.js";
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
  /** Further options of the gRPC channel. */
  channelOptions?: ChannelOptions | undefined;
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

type Method<I extends DescMessage, O extends DescMessage> =
  | DescMethodUnary<I, O>
  | DescMethodServerStreaming<I, O>
  | DescMethodClientStreaming<I, O>
  | DescMethodBiDiStreaming<I, O>;

const CHANNEL_OPTIONS: ChannelOptions = {
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  // More often than balancers forget a silent connection (350 s), and less often than servers suffer (300 s).
  "grpc.keepalive_time_ms": 330_000,
  "grpc.keepalive_timeout_ms": 20_000,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 3_000,
  "grpc.use_local_subchannel_pool": 1,
  "grpc.service_config": JSON.stringify(serviceConfig),
};
const LOOPBACK = /^(unix:|(ipv4:|dns:)?(localhost|127(\.\d+){3})(:|$)|(ipv6:)?\[::1\])/;

/** A gRPC channel and the defaults of every call. */
export class Connection {
  readonly isPlain: boolean;
  readonly timeoutMs: number;
  readonly #client: GrpcClient;
  readonly #metadata = new Metadata();
  readonly #closables = new Set<{ cancel(): void }>();

  constructor(
    readonly target: string,
    options: ConnectOptions,
  ) {
    if (endianness() !== "LE") throw new Error("optserve needs a little-endian machine");
    this.timeoutMs = options.timeoutMs ?? 60_000;
    const token = options.token ?? process.env.OPTSERVE_TOKEN;
    if (token) this.#metadata.set("authorization", `Bearer ${token}`);
    const tls = options.tls ?? caFromEnvironment();
    this.isPlain = !tls;
    this.#client = new GrpcClient(target, channelCredentials(tls), {
      ...CHANNEL_OPTIONS,
      // A proxy elsewhere cannot reach a loopback address of this machine.
      "grpc.enable_http_proxy": LOOPBACK.test(target) ? 0 : 1,
      ...options.channelOptions,
    });
  }

  /** Makes a unary call, again and again until its deadline. */
  call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    init: Init<MessageShape<I>>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    const request = toMessage(method.input, init);
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
            (error, response) => (error ? reject(error) : resolve(response as MessageShape<O>)),
          );
          cancelWith(call, options.signal);
        }),
      options,
    );
  }

  /** Opens a call whose answer is a stream. */
  serverStream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    init: Init<MessageShape<I>>,
    signal: AbortSignal | undefined,
    deadline?: Deadline,
  ): AsyncIterable<MessageShape<O>> {
    const call = this.#client.makeServerStreamRequest(
      pathOf(method),
      serializer(method.input),
      deserializer(method.output),
      toMessage(method.input, init),
      this.#metadata,
      deadlineOf(deadline),
    );
    cancelWith(call, signal);
    return call;
  }

  /** Sends encoded messages, and returns the answer. */
  upload<I extends DescMessage, O extends DescMessage>(
    method: DescMethodClientStreaming<I, O>,
    messages: Iterable<readonly Uint8Array[]>,
    signal: AbortSignal | undefined,
    deadline: Deadline,
  ): Promise<MessageShape<O>> {
    return new Promise((resolve, reject) => {
      const call = this.#client.makeClientStreamRequest(
        pathOf(method),
        identity,
        deserializer(method.output),
        this.#metadata,
        deadlineOf(deadline),
        (error, response) => (error ? reject(error) : resolve(response as MessageShape<O>)),
      );
      cancelWith(call, signal);
      const writer = new Writer(call);
      void (async () => {
        for (const pieces of messages) await writer.write(pieces);
        call.end();
      })();
    });
  }

  /** Opens a call with streams both ways, whose requests are encoded already. */
  duplex<I extends DescMessage, O extends DescMessage>(
    method: DescMethodBiDiStreaming<I, O>,
  ): ClientDuplexStream<Buffer, MessageShape<O>> {
    const path = pathOf(method);
    return this.#client.makeBidiStreamRequest(path, identity, deserializer(method.output), this.#metadata);
  }

  /** Makes a call that may be repeated until it succeeds or its deadline has come. */
  async retry<T>(attempt: (deadline: Deadline) => Promise<T>, options: CallOptions): Promise<T> {
    return retry(attempt, new Deadline(options.timeoutMs ?? this.timeoutMs), options.signal);
  }

  /** Has something cancelled when the connection is closed. */
  closeWith(closable: { cancel(): void }): void {
    this.#closables.add(closable);
  }

  /** No longer. */
  forget(closable: { cancel(): void }): void {
    this.#closables.delete(closable);
  }

  /** Closes the channel; open streams end. */
  close(): void {
    for (const closable of this.#closables) closable.cancel();
    this.#client.close();
  }
}

/** Writes messages to a call, at most two of them ahead of the connection. */
export class Writer {
  #written: Promise<void> = Promise.resolve();

  constructor(readonly call: { write(message: Buffer, done: () => void): unknown }) {}

  /** Writes a message that is given in pieces. */
  async write(pieces: readonly Uint8Array[]): Promise<void> {
    const previous = this.#written;
    this.#written = new Promise((resolve) => this.call.write(Buffer.concat(pieces), () => resolve()));
    await previous;
  }
}

/** Items of a call's answer, with the typed error if it fails. */
export async function* typedErrors<T>(messages: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (failure) {
    throw errorFrom(failure);
  }
}

function caFromEnvironment(): TlsOptions | false {
  const path = process.env.OPTSERVE_CA;
  return path ? { ca: readFileSync(path) } : false;
}

function channelCredentials(tls: boolean | TlsOptions): ChannelCredentials {
  if (!tls) return credentials.createInsecure();
  const { ca, cert, key } = tls === true ? ({} as TlsOptions) : tls;
  if ((cert === undefined) !== (key === undefined)) throw new TypeError("cert and key go together");
  return credentials.createSsl(pem(ca), pem(key), pem(cert));
}

function pem(given: string | Buffer | undefined): Buffer | null {
  return given === undefined ? null : Buffer.from(given);
}

function pathOf<I extends DescMessage, O extends DescMessage>(method: Method<I, O>): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function serializer<D extends DescMessage>(schema: D): (message: MessageShape<D>) => Buffer {
  return (message) => Buffer.from(toBinary(schema, message));
}

function deserializer<D extends DescMessage>(schema: D): (bytes: Buffer) => MessageShape<D> {
  return (bytes) => fromBinary(schema, bytes);
}

function identity(bytes: Buffer): Buffer {
  return bytes;
}

function deadlineOf(deadline: Deadline | undefined): GrpcCallOptions {
  return deadline === undefined ? {} : { deadline: deadline.date() };
}

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
