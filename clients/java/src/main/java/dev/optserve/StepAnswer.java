package dev.optserve;

import dev.optserve.v1.StepResult;

/** What happened in a step, and the pulled parameters, whose step is later if a stored result was sent again. */
public record StepAnswer(StepResult result, Parameters parameters) {
    /** Returns the session's step after it. */
    public long step() {
        return result.getStep();
    }
}
