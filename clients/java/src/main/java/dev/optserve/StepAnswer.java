package dev.optserve;

import dev.optserve.v1.StepResult;

/**
 * The answer to a step.
 *
 * @param result what happened
 * @param parameters that were pulled; their step is later than the result's if a stored result was sent again
 */
public record StepAnswer(StepResult result, Parameters parameters) {
    /** Returns the session's step after it. */
    public long step() {
        return result.getStep();
    }
}
