/** A stream of steps. */

import type { StepEngine } from "./step-engine.js";
import type { Gradients, PlanOptions, StepOptions, StepResult } from "./step-options.js";

/** Options of a stream. */
export interface StreamOptions extends PlanOptions {
  /**
   * Name of the worker; a random one when left out. A program that is started again continues under its
   * earlier name. No two streams may use one name at the same time.
   */
  worker?: string | undefined;
  /** Maximum number of steps in flight, up to 64; 8 when left out. */
  window?: number | undefined;
}

/** Many steps of one worker, several of them in flight at once. They are applied in order, each once. */
export class StepStream {
  /** @internal */
  constructor(
    private readonly engine: StepEngine,
    private readonly plan: PlanOptions,
    private readonly window: number,
  ) {}

  /**
   * Takes a step. Further steps may be taken before it is answered; those that exceed the window wait.
   *
   * The gradients' arrays must not change before the promise is settled. If a step fails, those behind it
   * fail as well.
   */
  step(gradients: Gradients, options: StepOptions = {}): Promise<StepResult> {
    return this.engine.step(gradients, this.plan, options);
  }

  /** Takes a step for each item, as many at once as the window allows, and yields the results in order. */
  async *steps(
    gradients: AsyncIterable<Gradients> | Iterable<Gradients>,
    options: StepOptions = {},
  ): AsyncGenerator<StepResult> {
    const inFlight: Promise<StepResult>[] = [];
    for await (const gradient of gradients) {
      const result = this.step(gradient, options);
      result.catch(() => {}); // it is awaited below, or the loop was left
      inFlight.push(result);
      if (inFlight.length >= this.window) yield (await inFlight.shift()) as StepResult;
    }
    for (const result of inFlight) yield await result;
  }

  /** Ends the stream at once; whether the steps in flight are applied stays unknown. */
  cancel(): void {
    this.engine.cancel();
  }

  /**
   * Waits for the steps in flight, and ends the stream.
   *
   * @throws OptserveError if one of them failed.
   */
  async close(): Promise<void> {
    await this.engine.close();
  }
}
