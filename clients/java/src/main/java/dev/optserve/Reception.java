package dev.optserve;

import dev.optserve.v1.TensorLayout;
import java.io.IOException;
import java.nio.*;
import java.util.*;

/** Fills arrays with the chunks of an answer. */
final class Reception {
    private static final int SCRATCH_BYTES = 1 << 15; // stays in a cache of the processor

    private final List<TensorLayout> layout;
    private final Map<String, NdArray> arrays = new LinkedHashMap<>();
    private final long byteCount;
    private final ByteBuffer scratch; // begins with the bytes of an element that a chunk has cut
    private long received;
    private int current; // which array is filled
    private int filled; // elements of it

    /** Begins to fill the arrays of into, by name, and new ones for other tensors of the layout. */
    Reception(List<TensorLayout> layout, long byteCount, Map<String, NdArray> into) {
        this.layout = layout;
        this.byteCount = byteCount;
        long total = 0;
        for (TensorLayout tensor : layout) {
            NdArray target = into.get(tensor.getName());
            if (target == null) target = NdArray.zeros(tensor.getDtype(), tensor.getShapeList());
            arrays.put(tensor.getName(), target);
            total += target.byteCount(tensor.getDtype());
        }
        if (total != byteCount) throw OptserveException.malformed(byteCount + " bytes in a layout of " + total);
        scratch = ByteBuffer.allocate((int) Math.min(SCRATCH_BYTES, byteCount)).order(ByteOrder.LITTLE_ENDIAN);
    }

    boolean isComplete() {
        return received == byteCount;
    }

    Map<String, NdArray> arrays() {
        return arrays;
    }

    /** Takes the chunk of a message, if it has one. */
    void add(Frames.Incoming<?> message) throws IOException {
        int left = message.length();
        if (left > 0 && message.offset() != received || left > byteCount - received) {
            throw OptserveException.malformed("a chunk at " + message.offset() + " where " + received + " is next");
        }
        received += left;
        while (left > 0) {
            TensorLayout wire = layout.get(current);
            NdArray target = arrays.get(wire.getName());
            int size = Elements.sizeOf(wire.getDtype());
            long missing = (long) (target.size() - filled) * size - scratch.position();
            int some = (int) Math.min(Math.min(left, scratch.remaining()), missing);
            message.data().readNBytes(scratch.array(), scratch.position(), some);
            left -= some;
            scratch.position(scratch.position() + some).flip();
            int whole = scratch.remaining() / size;
            Elements.decode(scratch, wire.getDtype(), target.elements(), filled, whole);
            scratch.compact();
            filled += whole;
            if (filled == target.size()) {
                current++;
                filled = 0;
            }
        }
    }
}
