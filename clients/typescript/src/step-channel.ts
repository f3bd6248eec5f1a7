/** The channel that a step stream's messages go over. */

import type { ClientDuplexStream } from "@grpc/grpc-js";
import { type Connection, Writer } from "./connection.js";
import { errorFrom, type OptserveError } from "./errors.js";
import { SessionService, type StepStreamResponse } from "./gen/optserve/v1/session_service_pb.js";

/** Is told what comes over a channel. */
export interface ChannelListener {
  /** A message was received. */
  onMessage(message: StepStreamResponse): void;
  /** The channel has ended; with an error if the call failed. */
  onEnd(error: OptserveError | undefined): void;
}

/** Carries the messages of one StepStream call, in order. */
export interface StepChannel {
  /** Sends an encoded message, given in pieces that stay as they are until it is sent. */
  send(pieces: readonly Uint8Array[]): Promise<void>;
  /** Ends the call at once. */
  cancel(): void;
  /** Ends the call when everything is answered. */
  finish(): void;
}

/** A channel over the call itself. */
export class GrpcChannel implements StepChannel {
  readonly #call: ClientDuplexStream<Buffer, StepStreamResponse>;
  readonly #writer: Writer;

  constructor(connection: Connection, listener: ChannelListener) {
    this.#call = connection.duplex(SessionService.method.stepStream);
    this.#writer = new Writer(this.#call);
    this.#call.on("data", (message: StepStreamResponse) => listener.onMessage(message));
    this.#call.on("error", (failure) => listener.onEnd(errorFrom(failure)));
    this.#call.on("end", () => listener.onEnd(undefined));
  }

  send(pieces: readonly Uint8Array[]): Promise<void> {
    return this.#writer.write(pieces);
  }

  cancel(): void {
    this.#call.cancel();
  }

  finish(): void {
    this.#call.end();
  }
}
