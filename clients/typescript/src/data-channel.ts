/**
 * A step stream over a TCP connection beside its call: level 3 of the contract, which can be left out.
 *
 * The call carries the first plan, its answer and the offer of a connection; if there is none, it carries the
 * steps too. Its status is that of the stream in either case.
 */

import { connect, type Socket } from "node:net";
import { create, fromBinary } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import type { Connection } from "./connection.js";
import { Code, OptserveError } from "./errors.js";
import { StepChannel } from "./step-channel.js";
import * as v1 from "./v1.js";
import { toBytes } from "./values.js";

const GREETING = Buffer.from("optserve data 1\n");
const ACCEPTED = 1;
/** Before each message, as in gRPC: whether it is compressed, and its length. */
const PREFIX_BYTES = 5;
/** Bytes of a message in which everything before the bytes of its chunk has arrived. */
const HEAD_BYTES = 4096;
const BUFFER_BYTES = 1 << 18;
/** How long a server may take to accept a connection. */
const CONNECT_TIMEOUT_MS = 1_000;
const CHUNK_FIELD = 6;

type OnMessage = (message: v1.StepStreamResponse) => void;
type OnEnd = (error: OptserveError | undefined) => void;

/** Carries the messages of one StepStream call, in order. */
export class DataChannel {
  readonly #call: StepChannel;
  /** Resolved when the connection is there, or there will be none. */
  readonly #ready: Promise<Socket | undefined>;
  #socket: Socket | undefined;
  #isPlanned = false;
  /** Whether the steps go over the connection. */
  #isMoved = false;
  #isEnded = false;
  #written: Promise<void> = Promise.resolve();

  /** Arguments as of `StepChannel`. */
  constructor(
    private readonly connection: Connection,
    private readonly onMessage: OnMessage,
    private readonly onEnd: OnEnd,
  ) {
    let settle: (socket: Socket | undefined) => void = () => {};
    this.#ready = new Promise((resolve) => {
      settle = resolve;
    });
    const receive = async (message: v1.StepStreamResponse) => {
      if (message.dataConnection) settle(await this.#open(message.dataConnection));
      else onMessage(message);
    };
    this.#call = new StepChannel(
      connection,
      (message) => void receive(message),
      (error) => {
        settle(undefined);
        this.#end(error);
      },
    );
  }

  /** Sends an encoded message, given in pieces that stay as they are until it is sent. */
  async send(pieces: readonly Uint8Array[]): Promise<void> {
    if (!this.#isPlanned) {
      this.#isPlanned = true;
      await this.#call.send(pieces);
      return this.#call.send([toBytes(v1.StepStreamRequestSchema, { dataConnection: {} })]);
    }
    const socket = await this.#ready;
    if (socket === undefined) return this.#call.send(pieces);
    const previous = this.#written;
    this.#written = new Promise((resolve) => {
      const prefix = Buffer.alloc(PREFIX_BYTES);
      prefix.writeUInt32BE(
        pieces.reduce((sum, piece) => sum + piece.length, 0),
        1,
      );
      socket.cork();
      for (const piece of [prefix, ...pieces.slice(0, -1)]) socket.write(piece);
      socket.write(pieces.at(-1) ?? GREETING.subarray(0, 0), () => resolve());
      socket.uncork();
    });
    await previous;
  }

  /** Ends the call at once. */
  cancel(): void {
    this.#isEnded = true;
    this.#socket?.destroy();
    this.#call.cancel();
  }

  /** Ends the call when everything is answered. */
  finish(): void {
    this.#isEnded = true;
    this.#socket?.end();
    this.#call.finish();
  }

  /** Connects to where an offer says, and moves the stream there. */
  async #open({ port, ticket, serverPort }: v1.DataConnectionOffer): Promise<Socket | undefined> {
    const address = this.connection.dataAddress;
    // Another port than the server's own is that of a proxy, behind which the offered one is not reached.
    if (address === undefined || port === 0 || serverPort !== address.port) return undefined;
    const splitter = new Splitter(this.onMessage);
    let onAccepted: ((first: number | undefined) => void) | undefined;
    const receive = (bytes: Buffer) => {
      const at = onAccepted === undefined ? 0 : 1;
      onAccepted?.(bytes[0]);
      onAccepted = undefined;
      if (bytes.length > at) splitter.add(bytes.subarray(at));
    };
    const onread = {
      buffer: Buffer.alloc(BUFFER_BYTES),
      callback: (length: number, bytes: Uint8Array) => {
        try {
          receive(Buffer.from(bytes.buffer, bytes.byteOffset, length));
        } catch (error) {
          this.#end(new OptserveError(`the answer is no message: ${error}`, Code.INTERNAL));
        }
        return true;
      },
    };
    const socket = connect({ host: address.host, port, onread, noDelay: true, keepAlive: true });
    this.#socket = socket;
    const accepted = await new Promise<boolean>((resolve) => {
      onAccepted = (first) => resolve(first === ACCEPTED);
      socket.on("error", (error) => {
        resolve(false);
        if (this.#isMoved) this.#end(new OptserveError(`the data connection was lost: ${error}`, Code.UNAVAILABLE));
      });
      socket.once("close", () => resolve(false));
      setTimeout(() => resolve(false), CONNECT_TIMEOUT_MS).unref();
      socket.write(Buffer.concat([GREETING, ticket]));
    });
    if (!accepted || this.#isEnded) {
      socket.destroy();
      return undefined;
    }
    this.#isMoved = true;
    await this.#call.send([toBytes(v1.StepStreamRequestSchema, { dataConnection: { ticket } })]);
    return socket;
  }

  /** Ends the stream, as its call says: over the connection, bytes that are missing were lost on the way. */
  #end(error: OptserveError | undefined): void {
    this.#socket?.destroy();
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#call.cancel();
    const { reason } = error ?? {};
    const isOlder = reason === v1.ErrorReason.STREAM_PROTOCOL && !this.#isMoved;
    const isLost = reason === v1.ErrorReason.STREAM_TRUNCATED && this.#isMoved;
    if (isOlder) this.connection.dataAddress = undefined; // the server does not have this level
    const lost = () => new OptserveError("the data connection was lost", Code.UNAVAILABLE, { cause: error });
    this.onEnd(isOlder || isLost ? lost() : error);
  }
}

/** Splits bytes into messages. The bytes of a long chunk are passed on as they come, as several chunks. */
export class Splitter {
  #pending: Buffer = Buffer.alloc(0);
  /** Bytes that the current message's chunk still has, and their place. */
  #left = 0;
  #offset = 0;

  constructor(private readonly onMessage: OnMessage) {}

  /** Takes bytes, which may change afterwards. */
  add(received: Buffer): void {
    let bytes = this.#pending.length ? Buffer.concat([this.#pending, received]) : received;
    for (;;) {
      if (this.#left > 0) {
        const data = bytes.subarray(0, this.#left);
        if (data.length > 0) this.onMessage(chunkMessage(this.#offset, data));
        this.#left -= data.length;
        this.#offset += data.length;
        bytes = bytes.subarray(data.length);
      }
      if (bytes.length < PREFIX_BYTES) break;
      const length = bytes.readUInt32BE(1);
      if (bytes.length - PREFIX_BYTES < Math.min(length, HEAD_BYTES)) break;
      const message = bytes.subarray(PREFIX_BYTES, PREFIX_BYTES + length);
      bytes = bytes.subarray(PREFIX_BYTES + message.length);
      if (message.length === length) this.onMessage(fromBinary(v1.StepStreamResponseSchema, message));
      else this.#begin(message, length);
    }
    this.#pending = Buffer.from(bytes);
  }

  /** Takes the beginning of a message, which ends with the bytes of its chunk. */
  #begin(bytes: Buffer, length: number): void {
    const reader = new BinaryReader(bytes);
    for (;;) {
      const start = reader.pos;
      const [field, type] = reader.tag();
      if (field !== CHUNK_FIELD || type !== WireType.LengthDelimited) {
        reader.skip(type, field);
        continue;
      }
      reader.uint32();
      let offset = 0;
      for (let [inner] = reader.tag(); inner !== 2; [inner] = reader.tag()) offset = Number(reader.uint64());
      const size = reader.uint32();
      if (reader.pos + size !== length) throw new Error("the chunk is not the last field");
      const data = bytes.subarray(reader.pos);
      const head = fromBinary(v1.StepStreamResponseSchema, bytes.subarray(0, start));
      head.chunk = chunkMessage(offset, data).chunk as v1.Chunk;
      this.#left = size - data.length;
      this.#offset = offset + data.length;
      this.onMessage(head);
      return;
    }
  }
}

function chunkMessage(offset: number, data: Uint8Array): v1.StepStreamResponse {
  return create(v1.StepStreamResponseSchema, { chunk: { byteOffset: BigInt(offset), data } });
}
