package dev.optserve;

import dev.optserve.v1.DataType;
import java.nio.*;

/** Converts elements between Java's types and those on the wire, which are little-endian. */
final class Elements {
    private Elements() {}

    /** Returns the bytes of an element; 0 if the type is not known. */
    static int sizeOf(DataType dtype) {
        return switch (dtype) {
            case DATA_TYPE_FLOAT16, DATA_TYPE_BFLOAT16 -> 2;
            case DATA_TYPE_FLOAT32, DATA_TYPE_INT32 -> 4;
            case DATA_TYPE_FLOAT64, DATA_TYPE_INT64 -> 8;
            default -> 0;
        };
    }

    static boolean isFloating(DataType dtype) {
        return sizeOf(dtype) > 0 && dtype != DataType.DATA_TYPE_INT32 && dtype != DataType.DATA_TYPE_INT64;
    }

    /** Writes elements to a target, and moves its position. */
    static void encode(Buffer source, int from, int count, DataType wire, ByteBuffer target) {
        int at = target.position();
        target.position(at + count * sizeOf(wire));
        ByteBuffer bytes = target.duplicate().order(target.order()).position(at);
        if (source instanceof FloatBuffer floats && wire == DataType.DATA_TYPE_FLOAT32) {
            bytes.asFloatBuffer().put(0, floats, from, count);
        } else if (source instanceof DoubleBuffer doubles && wire == DataType.DATA_TYPE_FLOAT64) {
            bytes.asDoubleBuffer().put(0, doubles, from, count);
        } else if (source instanceof IntBuffer ints) {
            bytes.asIntBuffer().put(0, ints, from, count);
        } else if (source instanceof LongBuffer longs) {
            bytes.asLongBuffer().put(0, longs, from, count);
        } else {
            for (int i = from; i < from + count; i++) {
                double x = source instanceof FloatBuffer floats ? floats.get(i) : ((DoubleBuffer) source).get(i);
                switch (wire) {
                    case DATA_TYPE_FLOAT64 -> bytes.putDouble(x);
                    case DATA_TYPE_FLOAT32 -> bytes.putFloat((float) x);
                    case DATA_TYPE_BFLOAT16 -> bytes.putShort(toBfloat16(roundToOdd(x)));
                    default -> bytes.putShort(toFloat16(roundToOdd(x)));
                }
            }
        }
    }

    /** Reads elements from a source, and moves its position. */
    static void decode(ByteBuffer source, DataType wire, Buffer target, int to, int count) {
        int at = source.position();
        if (target instanceof FloatBuffer floats && wire == DataType.DATA_TYPE_FLOAT32) {
            floats.put(to, source.asFloatBuffer(), 0, count);
        } else if (target instanceof DoubleBuffer doubles && wire == DataType.DATA_TYPE_FLOAT64) {
            doubles.put(to, source.asDoubleBuffer(), 0, count);
        } else if (target instanceof IntBuffer ints) {
            ints.put(to, source.asIntBuffer(), 0, count);
        } else if (target instanceof LongBuffer longs) {
            longs.put(to, source.asLongBuffer(), 0, count);
        } else {
            for (int i = to; i < to + count; i++) {
                double x =
                        switch (wire) {
                            case DATA_TYPE_FLOAT64 -> source.getDouble();
                            case DATA_TYPE_FLOAT32 -> source.getFloat();
                            case DATA_TYPE_BFLOAT16 -> Float.intBitsToFloat(source.getShort() << 16);
                            default -> fromFloat16(source.getShort());
                        };
                if (target instanceof FloatBuffer floats) floats.put(i, (float) x);
                else ((DoubleBuffer) target).put(i, x);
            }
        }
        source.position(at + count * sizeOf(wire));
    }

    /** Rounds to a float next to x whose last bit is set unless it is x, so that rounding it again rounds x correctly. */
    private static float roundToOdd(double x) {
        float near = (float) x;
        if (near == x || Double.isNaN(x)) return near;
        int bits = Float.floatToRawIntBits(near);
        return Float.intBitsToFloat((Math.abs((double) near) > Math.abs(x) ? bits - 1 : bits) | 1);
    }

    /** Rounds to the nearest bfloat16, ties to even: the upper half of a float. */
    static short toBfloat16(float x) {
        int bits = Float.floatToRawIntBits(x);
        if (Float.isNaN(x)) return (short) (bits >>> 16 | 0x40);
        return (short) (bits + 0x7fff + (bits >>> 16 & 1) >>> 16);
    }

    /** Rounds to the nearest IEEE 754 binary16, ties to even. */
    static short toFloat16(float x) {
        int bits = Float.floatToRawIntBits(x);
        int sign = bits >>> 16 & 0x8000;
        float magnitude = Math.abs(x);
        if (Float.isNaN(x)) return (short) (sign | 0x7e00);
        if (magnitude >= 65520) return (short) (sign | 0x7c00); // rounds to more than the largest number
        if (magnitude < 0x1p-14f) return (short) (sign | (int) Math.rint(magnitude * 0x1p24)); // subnormal
        int biased = (bits & 0x7fffffff) - (127 - 15 << 23);
        return (short) (sign | biased + 0xfff + (biased >>> 13 & 1) >>> 13);
    }

    static float fromFloat16(short bits) {
        int sign = (bits & 0x8000) << 16;
        int magnitude = (bits & 0x7fff) << 13;
        if (magnitude >= 0x7c00 << 13) return Float.intBitsToFloat(sign | 0x7f800000 | magnitude);
        // The product adds the difference of the exponents' biases, and is exact for subnormal numbers too.
        return Float.intBitsToFloat(sign | Float.floatToRawIntBits(Float.intBitsToFloat(magnitude) * 0x1p112f));
    }
}
