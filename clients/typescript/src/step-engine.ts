/** Takes the steps of one worker: numbers them, and keeps each until it is answered. */

import { Reception } from "./chunks.js";
import type { Connection } from "./connection.js";
import { DataChannel } from "./data-channel.js";
import { allowance, Deadline, pauseMs, throwIfAborted } from "./deadline.js";
import { type Applied, Code, errorFrom, invalid, isRetryable, OptserveError } from "./errors.js";
import { StepChannel } from "./step-channel.js";
import type { Gradients, PlanOptions, StepOptions, StepResult } from "./step-options.js";
import { checkInto, checkValues, isSparse, type Layout, layoutBytes, PendingStep, Plan } from "./step-plan.js";
import * as v1 from "./v1.js";
import { toValue } from "./values.js";

/** A server stores this many results of each worker, and so answers as many steps that are sent again. */
export const MAX_WINDOW = 64;
/** Plans that are kept for steps that take turns. */
const MAX_PLANS = 16;
/** A channel, and what was sent and is to be received on it. */
interface OpenStream {
  readonly channel: StepChannel | DataChannel;
  /** What the server's next messages answer, in order. */
  readonly due: (Plan | PendingStep)[];
  /** The last plan that was sent. */
  plan?: Plan;
  /** How many of the waiting steps were sent. */
  sent: number;
  isSending: boolean;
  /** The result of the oldest step, while its parameters are received, and the step that these belong to. */
  answer?: Pick<v1.StepStreamResponse, "result" | "parametersStep">;
  reception?: Reception | undefined;
}

/**
 * Takes steps, several of them in flight at once.
 *
 * A sequence is used up when its step's result is known. A step that was rejected gives its sequence to the
 * next one. If the result stays unknown, the next step gets the same sequence: the same content returns the
 * stored result, and for another one SEQUENCE_REUSED proves that the lost step was applied, and states
 * where to continue.
 */
export class StepEngine {
  readonly #plans = new Map<string, Plan>();
  /** Steps without an answer, in order; the first ones were sent. */
  readonly #waiting: PendingStep[] = [];
  #stream: OpenStream | undefined;
  /** The sequence of the next step that is sent; 0 until the server has said it. */
  #next = 0;
  /** Sequences below this may have been used by steps whose results stayed unknown. */
  #unknownBelow = 0;
  #failures = 0;
  #pause: NodeJS.Timeout | undefined;
  #isClosed = false;

  /**
   * @param connection - to the server.
   * @param session - its name.
   * @param layout - of the session.
   * @param worker - name of the worker; no other process may use it at the same time.
   * @param window - maximum number of steps in flight.
   * @param epoch - of the worker's membership; 0 for none.
   */
  constructor(
    private readonly connection: Connection,
    private readonly session: string,
    private readonly layout: Layout,
    private readonly worker: string,
    private readonly window: number,
    private readonly epoch = 0,
  ) {
    if (!(window >= 1 && window <= MAX_WINDOW)) {
      throw new RangeError(`window is ${window}, but must be in 1..${MAX_WINDOW}`);
    }
    connection.closables.add(this);
  }

  /** Takes a step; several calls may be made without waiting. */
  step(gradients: Gradients, plan: PlanOptions, options: StepOptions): Promise<StepResult> {
    try {
      if (this.#isClosed) throw closed("no");
      throwIfAborted(options.signal, "no");
      checkValues(this.layout, gradients, "gradients");
      if (plan.pull && options.into) {
        checkInto(this.layout, options.into, plan.pull === true ? undefined : plan.pull.tensors);
      }
      const step = new PendingStep(
        this.#planOf(gradients, plan, options.validateOnly ?? false),
        gradients,
        this.layout,
        options,
        new Deadline(options.timeoutMs ?? allowance(this.connection.timeoutMs, 2 * layoutBytes(this.layout))),
      );
      step.watch((code, message, cause) => this.#withdraw(step, code, message, cause));
      this.#waiting.push(step);
      this.#pump();
      return step.result;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Waits until no step is in flight, and ends the stream.
   *
   * @throws OptserveError if one of these steps failed.
   */
  async close(): Promise<void> {
    try {
      await Promise.all(this.#waiting.map((step) => step.result));
    } finally {
      this.#isClosed = true;
      this.connection.closables.delete(this);
      this.#stream?.channel.finish();
      this.#stream = undefined;
    }
  }

  /** Ends the stream at once. Whether the steps in flight are applied stays unknown. */
  cancel(): void {
    this.#isClosed = true;
    this.connection.closables.delete(this);
    this.#drop();
    this.#fail(0, closed(this.#waiting[0]?.isSent ? "unknown" : "no"));
  }

  #planOf(gradients: Gradients, options: PlanOptions, validateOnly: boolean): Plan {
    const names = Object.keys(gradients);
    if (names.length === 0) throw invalid("there is no gradient", v1.ErrorReason.MISSING_TENSOR, "gradients");
    const sparse = names.filter((name) => isSparse(gradients[name] as never));
    const key = JSON.stringify([names, sparse, options, validateOnly]);
    let plan = this.#plans.get(key);
    if (plan === undefined) {
      const whole = names.filter((name) => !sparse.includes(name));
      plan = new Plan(this.session, this.worker, this.epoch, whole, sparse, options, validateOnly);
      if (this.#plans.size === MAX_PLANS) this.#plans.clear();
      this.#plans.set(key, plan);
    }
    return plan;
  }

  /** Sends what may be sent. */
  #pump(): void {
    if (this.#waiting.length === 0 || this.#pause !== undefined || this.#isClosed) return;
    this.#stream ??= this.#open();
    if (!this.#stream.isSending) void this.#send(this.#stream);
  }

  #open(): OpenStream {
    const whenCurrent =
      <T>(take: (given: T) => void) =>
      (given: T) => {
        if (this.#stream === stream) take(given);
      };
    const Channel = this.connection.dataAddress ? DataChannel : StepChannel;
    const channel = new Channel(
      this.connection,
      whenCurrent((message) => this.#receive(stream, message)),
      whenCurrent((error) => this.#onEnd(error)),
    );
    const stream: OpenStream = { channel, due: [], sent: 0, isSending: false };
    return stream;
  }

  async #send(stream: OpenStream): Promise<void> {
    const { channel, due } = stream;
    stream.isSending = true;
    while (this.#stream === stream && stream.sent < Math.min(this.window, this.#waiting.length)) {
      const step = this.#waiting[stream.sent] as PendingStep;
      if (stream.plan !== step.plan) {
        stream.plan = step.plan;
        due.push(step.plan);
        await channel.send([step.plan.message]);
        continue;
      }
      if (step.plan.gradients === undefined) break; // its answer has the layout
      if (!step.isSent && !step.plan.validateOnly) step.sequence = this.#next++;
      step.isSent = true;
      stream.sent += 1;
      due.push(step);
      for (const pieces of step.messages()) {
        if (this.#stream !== stream) break;
        await channel.send(pieces);
      }
    }
    stream.isSending = false;
  }

  #receive(stream: OpenStream, message: v1.StepStreamResponse): void {
    try {
      const due = stream.due[0];
      if (due instanceof Plan && message.planned) {
        stream.due.shift();
        due.answer(message.planned);
        this.#next ||= Number(message.planned.nextSequence);
        this.#pump();
      } else if (due instanceof PendingStep) {
        this.#receiveResult(stream, due, message);
      } else {
        throw new OptserveError("the server's message answers nothing", Code.INTERNAL);
      }
    } catch (error) {
      this.#drop();
      this.#fail(0, errorFrom(error));
    }
  }

  #receiveResult(stream: OpenStream, step: PendingStep, message: v1.StepStreamResponse): void {
    const { result, parametersStep } = message;
    if (result) {
      const { parameters } = step.plan;
      stream.answer = { result, parametersStep }; // without the chunk, which would stay in memory
      stream.reception =
        parameters && new Reception(parameters.tensors, Number(parameters.byteCount), step.options.into);
    }
    const { answer, reception } = stream;
    if (answer?.result === undefined) throw new OptserveError("the answer has no result", Code.INTERNAL);
    if (message.chunk) reception?.add(Number(message.chunk.byteOffset), message.chunk.data);
    if (reception && !reception.isComplete) return;
    stream.due.shift();
    stream.sent -= 1;
    this.#waiting.shift();
    this.#failures = 0;
    step.settle({
      ...toValue(answer.result),
      worker: step.sequence ? this.worker : "",
      parameters: reception?.arrays ?? {},
      parametersStep: Number(answer.parametersStep),
    });
    this.#pump();
  }

  #onEnd(failure: OptserveError | undefined): void {
    this.#stream = undefined;
    const oldest = this.#waiting[0];
    if (oldest === undefined) return; // an idle stream: the next step opens another one
    const error = failure ?? new OptserveError("the stream ended before its answer", Code.UNAVAILABLE);
    if (error.reason === v1.ErrorReason.SEQUENCE_REUSED && oldest.sequence < this.#unknownBelow) {
      this.#number(Number(error.metadata.expected)); // the step whose result stayed unknown was applied
      this.#pump();
      return;
    }
    if (isRetryable(error)) {
      const pause = pauseMs(++this.#failures, error);
      if (pause < oldest.deadline.remaining()) {
        this.#pause = setTimeout(() => {
          this.#pause = undefined;
          this.#pump();
        }, pause);
        return;
      }
    }
    this.#fail(0, error);
  }

  /** Numbers the steps that have a sequence anew. */
  #number(first: number): void {
    this.#next = first;
    for (const step of this.#waiting) {
      if (step.sequence) step.sequence = this.#next++;
    }
  }

  /** Takes back a step whose caller waits no more. */
  #withdraw(step: PendingStep, code: Code, message: string, cause: unknown): void {
    const index = this.#waiting.indexOf(step);
    const applied = step.isSent ? "unknown" : "no";
    const error = new OptserveError(message, code, { applied, cause });
    if (step.isSent) {
      this.#drop(); // its arrays are the caller's again
      this.#fail(index, error);
    } else {
      this.#waiting.splice(index, 1);
      step.settle(error);
    }
    this.#pump();
  }

  /** Fails a step and those behind it. */
  #fail(index: number, error: OptserveError): void {
    const [failed, ...behind] = this.#waiting.splice(index);
    if (failed === undefined) return;
    const sequences = [failed, ...behind].map((step) => step.sequence).filter((sequence) => sequence > 0);
    if (sequences.length > 0) {
      this.#next = Math.min(...sequences);
      if (error.applied === "unknown") {
        this.#unknownBelow = Math.max(this.#unknownBelow, ...sequences.map((sequence) => sequence + 1));
      }
    }
    const { expected } = error.metadata;
    const reason = v1.ErrorReason[error.reason ?? 0];
    if (reason?.startsWith("SEQUENCE_") && expected !== undefined) this.#next = Number(expected);
    failed.settle(error);
    for (const step of behind) step.abandon(error);
  }

  /** Ends the channel; what was sent on it is to be sent again. */
  #drop(): void {
    clearTimeout(this.#pause);
    this.#pause = undefined;
    this.#stream?.channel.cancel();
    this.#stream = undefined;
  }
}

const closed = (applied: Applied) =>
  new OptserveError("the stream, or its client, is closed", Code.CANCELLED, { applied });
