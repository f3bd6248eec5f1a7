/** The calls of a transcript, which keep a client, a session and its worker. */

import { randomUUID } from "node:crypto";
import type {
  ConnectCall,
  JoinCall,
  OpenCall,
  ReadCall,
  StepsCall,
} from "../src/gen/optserve/conformance/v1/driver_pb.js";
import {
  type Client,
  connect,
  OptserveError,
  type SessionHandle,
  type StepResult,
  type StepStream,
} from "../src/index.js";
import { givenByName, initialValue, named, type Outcome, required } from "./values.js";

/** One worker of one session, over one client, until the next `connect`. */
export class Worker {
  #client: Client | undefined;
  #session: SessionHandle | undefined;
  #stream: StepStream | undefined;
  #window = 0;
  #isMember = false;

  connect({ target, token }: ConnectCall): Outcome {
    this.close();
    this.#client = connect(target, token ? { token } : {});
    return { case: "connect", value: {} };
  }

  async open(call: OpenCall): Promise<Outcome> {
    const client = required(this.#client);
    const worker = call.worker || randomUUID();
    let name = call.session;
    if (!name) {
      const parameters = Object.fromEntries(call.parameters.map((init) => [init.name, initialValue(init)]));
      name = (await client.createSession(parameters, required(call.spec))).name;
    }
    this.#endStream();
    this.#isMember = false;
    this.#session = await client.session(name, { worker });
    return { case: "open", value: { session: name, step: BigInt(this.#session.info.step) } };
  }

  async join({ leaseSeconds }: JoinCall): Promise<Outcome> {
    const { epoch, rank } = await required(this.#session).join({ leaseSeconds });
    this.#isMember = true;
    return { case: "join", value: { epoch: BigInt(epoch), rank } };
  }

  async steps(call: StepsCall): Promise<Outcome> {
    const outcomes: { step: bigint; sequence: bigint; replayed: boolean }[] = [];
    try {
      for await (const { step, sequence, replayed } of this.#take(call)) {
        outcomes.push({ step: BigInt(step), sequence: BigInt(sequence), replayed });
      }
    } catch (error) {
      if (!(error instanceof OptserveError)) throw error;
      return { case: "steps", value: { outcomes, refusal: refusalOf(error) } };
    }
    return { case: "steps", value: { outcomes } };
  }

  async read({ newerThan }: ReadCall): Promise<Outcome> {
    const session = required(this.#session);
    const options = newerThan === undefined ? {} : { newerThanStep: Number(newerThan) };
    const { arrays, step } = await session.pull(options);
    return { case: "read", value: { parameters: named(session, arrays), step: BigInt(step) } };
  }

  async leave(): Promise<Outcome> {
    await required(this.#session).leave();
    this.#isMember = false;
    return { case: "leave", value: {} };
  }

  /** Ends everything, as the end of a program does. */
  close(): void {
    this.#endStream();
    this.#session = undefined;
    this.#client?.close();
  }

  async *#take(call: StepsCall): AsyncGenerator<StepResult> {
    const { gradients, window, timeoutSeconds, expectedStep } = call;
    await this.#use(window);
    const options = (i: number) => ({
      ...(timeoutSeconds === undefined ? {} : { timeoutMs: 1000 * timeoutSeconds }),
      ...(expectedStep === undefined ? {} : { expectedStep: Number(expectedStep) + i }),
    });
    const pull = this.#isMember; // whose next step states the step of the parameters
    const inFlight: Promise<StepResult>[] = [];
    for (const [i, message] of gradients.entries()) {
      const gradient = givenByName(message);
      if (this.#stream === undefined) {
        yield await required(this.#session).step(gradient, { pull, ...options(i) });
        continue;
      }
      const result = this.#stream.step(gradient, options(i));
      result.catch(() => {}); // it is awaited below, or one before it has failed
      inFlight.push(result);
      if (inFlight.length === window) yield await required(inFlight.shift());
    }
    for (const result of inFlight) yield await result;
  }

  /** Has steps taken by a stream with a window, or by the handle: both are one worker, so one of them is used. */
  async #use(window: number): Promise<void> {
    if (window === this.#window) return;
    const { name, worker } = required(this.#session);
    this.#endStream();
    this.#session = await required(this.#client).session(name, { worker });
    this.#stream = window ? this.#session.stream({ window, worker }) : undefined;
    this.#window = window;
  }

  #endStream(): void {
    this.#stream?.cancel();
    this.#stream = undefined;
    this.#window = 0;
    this.#session?.close();
  }
}

/** An error as a message. */
export function refusalOf(error: OptserveError) {
  const { reason = 0, field = "", code, applied } = error;
  return { reason, field, code: code as number, notApplied: applied === "no" };
}
