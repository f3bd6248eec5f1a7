package dev.optserve;

import com.google.protobuf.UnsafeByteOperations;
import dev.optserve.v1.*;
import java.nio.*;
import java.util.*;

/**
 * A view of the caller's numbers as a dense array, row-major.
 *
 * <p>Nothing is copied: the elements must not change while a call uses the view, and a call that fills it writes to
 * them. Without a shape a view has one dimension or, as the gradient or the parameters of a session, the shape that
 * they have there.
 */
public final class NdArray {
    private final Buffer elements;
    private final DataType dtype;
    private final long[] shape; // null if none was stated

    private NdArray(Buffer elements, DataType dtype, long[] shape) {
        if (shape != null && Arrays.stream(shape).reduce(1, Math::multiplyExact) != elements.capacity()) {
            String text = elements.capacity() + " elements do not have the shape " + Arrays.toString(shape);
            throw new IllegalArgumentException(text);
        }
        this.elements = elements;
        this.dtype = dtype;
        this.shape = shape;
    }

    /** Returns a float32 view; without a shape it is flat. */
    public static NdArray of(float[] elements, long... shape) {
        return of(FloatBuffer.wrap(elements), shape);
    }

    /** Returns a float64 view; without a shape it is flat. */
    public static NdArray of(double[] elements, long... shape) {
        return of(DoubleBuffer.wrap(elements), shape);
    }

    /** Returns a float32 view of the remaining elements; without a shape it is flat. */
    public static NdArray of(FloatBuffer elements, long... shape) {
        return new NdArray(elements.slice(), DataType.DATA_TYPE_FLOAT32, orNull(shape));
    }

    /** Returns a float64 view of the remaining elements; without a shape it is flat. */
    public static NdArray of(DoubleBuffer elements, long... shape) {
        return new NdArray(elements.slice(), DataType.DATA_TYPE_FLOAT64, orNull(shape));
    }

    /** Returns an int32 view, for row indices and classes; without a shape it is flat. */
    public static NdArray of(int[] elements, long... shape) {
        return new NdArray(IntBuffer.wrap(elements), DataType.DATA_TYPE_INT32, orNull(shape));
    }

    /** Returns an int64 view, for row indices and classes; without a shape it is flat. */
    public static NdArray of(long[] elements, long... shape) {
        return new NdArray(LongBuffer.wrap(elements), DataType.DATA_TYPE_INT64, orNull(shape));
    }

    /** Returns a copy of a message of the contract. Elements of 16 bits become float32. */
    public static NdArray of(Tensor tensor) {
        NdArray copy = zeros(tensor.getDtype(), tensor.getShapeList());
        if (tensor.getData().size() != copy.byteCount(tensor.getDtype())) {
            throw OptserveException.malformed(tensor.getData().size() + " bytes of a tensor " + copy);
        }
        ByteBuffer data = tensor.getData().asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
        Elements.decode(data, tensor.getDtype(), copy.elements, 0, copy.size());
        return copy;
    }

    /** Returns the element type. */
    public DataType dtype() {
        return dtype;
    }

    /** Returns the extent of each dimension, outermost first. */
    public long[] shape() {
        return shape == null ? new long[] {size()} : shape.clone();
    }

    /** Returns the number of elements. */
    public int size() {
        return elements.capacity();
    }

    /** Returns float32 elements: the caller's array if the view is of a whole one, else a copy. */
    public float[] floats() {
        FloatBuffer floats = (FloatBuffer) elements;
        if (floats.hasArray() && floats.array().length == size()) return floats.array();
        float[] copy = new float[size()];
        floats.get(0, copy);
        return copy;
    }

    /** Returns float64 elements: the caller's array if the view is of a whole one, else a copy. */
    public double[] doubles() {
        DoubleBuffer doubles = (DoubleBuffer) elements;
        if (doubles.hasArray() && doubles.array().length == size()) return doubles.array();
        double[] copy = new double[size()];
        doubles.get(0, copy);
        return copy;
    }

    /** Returns a copy as a message of the contract. */
    public Tensor toTensor() {
        ByteBuffer data = ByteBuffer.allocate(Math.toIntExact(byteCount(dtype))).order(ByteOrder.LITTLE_ENDIAN);
        Elements.encode(elements, 0, size(), dtype, data);
        var tensor = Tensor.newBuilder().setDtype(dtype).addAllShape(extents(shape()));
        return tensor.setData(UnsafeByteOperations.unsafeWrap(data.flip())).build();
    }

    @Override
    public String toString() {
        return dtype + " " + Arrays.toString(shape());
    }

    Buffer elements() {
        return elements;
    }

    /** Returns the bytes of the elements in a type on the wire. */
    long byteCount(DataType wire) {
        return (long) size() * Elements.sizeOf(wire);
    }

    /** Makes an array of zeros for elements of a type on the wire. */
    static NdArray zeros(DataType wire, List<Long> extents) {
        long[] shape = extents.stream().mapToLong(Long::longValue).toArray();
        int count = Math.toIntExact(Arrays.stream(shape).reduce(1, Math::multiplyExact));
        return switch (wire) {
            case DATA_TYPE_FLOAT16, DATA_TYPE_BFLOAT16, DATA_TYPE_FLOAT32 -> // Java computes in no type of 16 bits
                new NdArray(FloatBuffer.allocate(count), DataType.DATA_TYPE_FLOAT32, shape);
            case DATA_TYPE_FLOAT64 -> new NdArray(DoubleBuffer.allocate(count), wire, shape);
            case DATA_TYPE_INT32 -> new NdArray(IntBuffer.allocate(count), wire, shape);
            case DATA_TYPE_INT64 -> new NdArray(LongBuffer.allocate(count), wire, shape);
            default -> throw OptserveException.malformed("a tensor of the element type " + wire);
        };
    }

    /** Checks an argument: its shape, unless it is flat, and whether its type can be converted to one on the wire. */
    void check(String field, List<Long> wanted, DataType wire) {
        long[] extents = wanted.stream().mapToLong(Long::longValue).toArray();
        if (size() != Arrays.stream(extents).reduce(1, (a, b) -> a * b)
                || shape != null && !Arrays.equals(shape, extents)) {
            String message = "the shape is " + Arrays.toString(shape()) + ", but must be " + wanted;
            throw OptserveException.invalid(ErrorReason.ERROR_REASON_SHAPE_MISMATCH, field, message);
        }
        if (!Elements.isFloating(dtype) || !Elements.isFloating(wire)) {
            String message = dtype + " is not exchanged as " + wire;
            throw OptserveException.invalid(ErrorReason.ERROR_REASON_DTYPE_MISMATCH, field, message);
        }
    }

    static List<Long> extents(long[] shape) {
        return Arrays.stream(shape).boxed().toList();
    }

    private static long[] orNull(long[] shape) {
        return shape.length == 0 ? null : shape.clone();
    }
}
