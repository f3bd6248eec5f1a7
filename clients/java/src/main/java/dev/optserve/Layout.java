package dev.optserve;

import dev.optserve.v1.*;
import java.util.*;

/** The tensors of a session, in the order of their bytes. */
final class Layout {
    private final Map<String, TensorLayout> tensors = new LinkedHashMap<>();

    Layout(List<TensorLayout> tensors) {
        tensors.forEach(tensor -> this.tensors.put(tensor.getName(), tensor));
    }

    List<TensorLayout> tensors() {
        return List.copyOf(tensors.values());
    }

    long byteCount() {
        return tensors.values().stream().mapToLong(TensorLayout::getByteCount).sum();
    }

    /** Returns those of some names that are tensors, in the order of the layout. */
    List<String> names(Map<String, ?> some) {
        return tensors.keySet().stream().filter(some::containsKey).toList();
    }

    /** Returns a tensor, or throws UNKNOWN_TENSOR. */
    TensorLayout find(String argument, String name) {
        TensorLayout tensor = tensors.get(name);
        if (tensor != null) return tensor;
        String message = "the session has no tensor \"" + name + "\"";
        throw OptserveException.invalid(ErrorReason.ERROR_REASON_UNKNOWN_TENSOR, argument + "." + name, message);
    }

    /** Throws UNKNOWN_TENSOR, SHAPE_MISMATCH or DTYPE_MISMATCH unless arrays fit their tensors. */
    void check(String argument, Map<String, NdArray> arrays) {
        arrays.forEach((name, array) -> {
            TensorLayout tensor = find(argument, name);
            array.check(argument + "." + name, tensor.getShapeList(), tensor.getDtype());
        });
    }
}
