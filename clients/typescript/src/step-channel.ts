/** The channel that a step stream's messages go over. */

import type { ClientDuplexStream } from "@grpc/grpc-js";
import { type Connection, write } from "./connection.js";
import { errorFrom, type OptserveError } from "./errors.js";
import * as v1 from "./v1.js";

/** Carries the messages of one StepStream call, in order. */
export class StepChannel {
  readonly #call: ClientDuplexStream<Buffer, v1.StepStreamResponse>;

  /**
   * @param onMessage - takes a message that was received.
   * @param onEnd - is called when the call has ended, with the error if it failed.
   */
  constructor(
    connection: Connection,
    onMessage: (message: v1.StepStreamResponse) => void,
    onEnd: (error: OptserveError | undefined) => void,
  ) {
    this.#call = connection.duplex(v1.SessionService.method.stepStream);
    this.#call.on("data", onMessage);
    this.#call.on("error", (failure) => onEnd(errorFrom(failure)));
    this.#call.on("end", () => onEnd(undefined));
  }

  /** Sends an encoded message, given in pieces that stay as they are until it is sent. */
  send(pieces: readonly Uint8Array[]): Promise<void> {
    return write(this.#call, pieces);
  }

  /** Ends the call at once. */
  cancel(): void {
    this.#call.cancel();
  }

  /** Ends the call when everything is answered. */
  finish(): void {
    this.#call.end();
  }
}
