package dev.optserve;

import java.util.Map;

/** Values of a session at a step: the arrays that were given to be filled, and new ones; none if nothing was read. */
public record Parameters(long step, Map<String, NdArray> arrays) {
    /** Returns the elements of a float32 tensor. */
    public float[] floats(String name) {
        return arrays.get(name).floats();
    }

    /** Returns the elements of a float64 tensor. */
    public double[] doubles(String name) {
        return arrays.get(name).doubles();
    }
}
