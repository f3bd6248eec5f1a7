/** Deadlines, and pauses between attempts. */

import { setTimeout as sleep } from "node:timers/promises";
import { type Applied, Code, errorFrom, isRetryable, OptserveError } from "./errors.js";

/** Options of every call. */
export interface CallOptions {
  /** Milliseconds that the call may take, with all its attempts; the client's default when left out. */
  timeoutMs?: number | undefined;
  /** Cancels the call. */
  signal?: AbortSignal | undefined;
}

const BYTES_PER_MS = 10e3;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 1_000;

/** The default time for a call, lengthened for a transfer by a second for each 10 MB. */
export function allowance(timeoutMs: number, byteCount: number): number {
  return timeoutMs + byteCount / BYTES_PER_MS;
}

/** The pause after an attempt, counted from 1, has failed: it grows, and is at least what the server asks for. */
export function pauseMs(attempt: number, error: OptserveError): number {
  const pause = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (attempt - 1)) * (1 - Math.random() / 2);
  return Math.max(pause, error.retryAfterMs ?? 0);
}

/** A moment by which a call must be done. */
export class Deadline {
  readonly #at: number;

  constructor(readonly timeoutMs: number) {
    if (!(timeoutMs > 0)) throw new RangeError(`timeoutMs is ${timeoutMs}, but must be greater than 0`);
    this.#at = performance.now() + timeoutMs;
  }

  /** Milliseconds left, never negative. */
  remaining(): number {
    return Math.max(0, this.#at - performance.now());
  }

  /** As gRPC takes it. */
  date(): number {
    return Date.now() + this.remaining();
  }
}

/**
 * Makes a call until it succeeds, fails for good, or its deadline has come. The call must have the same
 * effect if it is made again: it reads, or carries a sequence or a request id.
 */
export async function retry<T>(
  attempt: (deadline: Deadline) => Promise<T>,
  deadline: Deadline,
  signal?: AbortSignal,
): Promise<T> {
  throwIfAborted(signal, "no");
  for (let count = 1; ; count++) {
    try {
      return await attempt(deadline);
    } catch (failure) {
      throwIfAborted(signal);
      const error = errorFrom(failure);
      const pause = pauseMs(count, error);
      if (!isRetryable(error) || pause >= deadline.remaining()) throw error;
      await sleep(pause, undefined, { signal }).catch(() => throwIfAborted(signal));
    }
  }
}

/** @throws OptserveError if the caller has cancelled. */
export function throwIfAborted(signal: AbortSignal | undefined, applied: Applied = "unknown"): void {
  if (!signal?.aborted) return;
  throw new OptserveError("the call was cancelled", Code.CANCELLED, { applied, cause: signal.reason });
}
