package dev.optserve;

import dev.optserve.v1.*;
import java.time.Duration;
import java.util.*;

/**
 * A gradient to step with, and what the step asks for. It may be used for many steps, one after the other: the elements
 * of its arrays must not change until a step is answered.
 */
public final class Step {
    /** Gradients of some rows. */
    record Rows(NdArray indices, NdArray values) {}

    final Map<String, NdArray> gradients = new LinkedHashMap<>();
    final Map<String, Rows> rows = new LinkedHashMap<>();
    final Map<String, NdArray> into = new LinkedHashMap<>();
    StepStart options = StepStart.getDefaultInstance();
    PullOptions pull; // null for no parameters
    DataType wireType = DataType.DATA_TYPE_UNSPECIFIED;
    boolean hasTensorNorms;
    Duration timeout; // null for the client's

    /** Makes a step without a gradient. */
    public Step() {}

    /** Sets the gradient of a whole tensor, of the tensor's shape or flat. */
    public Step gradient(String tensor, NdArray gradient) {
        gradients.put(tensor, gradient);
        return this;
    }

    /** Sets the gradient of a whole tensor. */
    public Step gradient(String tensor, float[] gradient) {
        return gradient(tensor, NdArray.of(gradient));
    }

    /** Sets the gradient of some rows: int32 or int64 indices, of which equal ones are summed, and a row for each. */
    public Step rows(String tensor, NdArray indices, NdArray values) {
        rows.put(tensor, new Rows(indices, values));
        return this;
    }

    /** Returns all parameters with the answer. */
    public Step pull() {
        return pull(PullOptions.getDefaultInstance());
    }

    /** Returns parameters with the answer: which, of which point, and in which type on the wire. */
    public Step pull(PullOptions options) {
        pull = options;
        return this;
    }

    /**
     * Fills an array of the caller with the new parameters, which {@link #pull} selects; all by default. The array must
     * not share memory with a gradient. After an error it may hold a part of the values.
     */
    public Step into(String tensor, NdArray target) {
        if (pull == null) pull();
        into.put(tensor, target);
        return this;
    }

    /** Fills an array of the caller with the new parameters. */
    public Step into(String tensor, float[] target) {
        return into(tensor, NdArray.of(target));
    }

    /** Sets the element type that gradients are sent in; the session's own by default. */
    public Step wireType(DataType dtype) {
        wireType = dtype;
        return this;
    }

    /** Requests the norm of each tensor's gradient. */
    public Step tensorNorms() {
        hasTensorNorms = true;
        return this;
    }

    /** Rejects the step unless the session has a step. */
    public Step expectedStep(long step) {
        return options(options.toBuilder().setExpectedStep(step).build());
    }

    /**
     * Sets all other options: loss scale, overrides, validation, and what a member states. The client sets sequence, row
     * indices, number of bytes and, unless it is set, the step of the parameters that a member received last.
     */
    public Step options(StepStart options) {
        this.options = options;
        return this;
    }

    /** Bounds the time until the answer, with all repeats; the client's timeout by default. */
    public Step timeout(Duration timeout) {
        this.timeout = timeout;
        return this;
    }
}
