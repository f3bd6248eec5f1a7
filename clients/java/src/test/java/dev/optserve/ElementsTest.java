package dev.optserve;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import dev.optserve.v1.DataType;
import dev.optserve.v1.Tensor;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class ElementsTest {
    /** Every number of 16 bits is its own nearest one, and numbers between two go to the nearest, ties to even. */
    @Test
    void everyFloat16() {
        for (int bits = 0; bits < 0x7c00; bits++) {
            float value = Elements.fromFloat16((short) bits);
            float above = Elements.fromFloat16((short) (bits + 1));
            assertEquals((short) bits, Elements.toFloat16(value));
            assertEquals((short) (bits | 0x8000), Elements.toFloat16(-value));
            double middle = above == Float.POSITIVE_INFINITY ? 65520 : ((double) value + above) / 2;
            int even = bits + (bits & 1);
            assertEquals((short) even, Elements.toFloat16((float) middle));
            assertEquals((short) bits, round(Math.nextDown(middle), DataType.DATA_TYPE_FLOAT16));
            assertEquals((short) (bits + 1), round(Math.nextUp(middle), DataType.DATA_TYPE_FLOAT16));
        }
        assertEquals(Float.POSITIVE_INFINITY, Elements.fromFloat16(Elements.toFloat16(1e9f)));
        assertEquals(Float.NaN, Elements.fromFloat16(Elements.toFloat16(Float.NaN)));
        assertEquals(0x1p-24f, Elements.fromFloat16((short) 1));
        assertEquals(65504, Elements.fromFloat16((short) 0x7bff));
    }

    @Test
    void bfloat16() {
        for (int bits = 0; bits < 0x7f80; bits += 3) {
            double value = Float.intBitsToFloat(bits << 16);
            double middle = Float.intBitsToFloat(bits << 16 | 0x8000);
            assertEquals((short) bits, round(value, DataType.DATA_TYPE_BFLOAT16));
            assertEquals((short) (bits + (bits & 1)), round(middle, DataType.DATA_TYPE_BFLOAT16));
            assertEquals((short) bits, round(Math.nextDown(middle), DataType.DATA_TYPE_BFLOAT16));
            assertEquals((short) (bits + 1), round(Math.nextUp(middle), DataType.DATA_TYPE_BFLOAT16));
        }
        assertEquals((short) 0x7fc0, Elements.toBfloat16(Float.NaN));
    }

    private static short round(double value, DataType wire) {
        ByteBuffer bytes = ByteBuffer.allocate(2).order(ByteOrder.LITTLE_ENDIAN);
        Elements.encode(NdArray.of(new double[] {value}).elements(), 0, 1, wire, bytes);
        return bytes.getShort(0);
    }

    @Test
    void tensorsAreCopies() {
        Tensor tensor = NdArray.of(new long[] {1, -2}, 1, 2).toTensor();
        assertEquals(List.of(1L, 2L), tensor.getShapeList());
        assertEquals(16, tensor.getData().size());
        NdArray scalar = NdArray.of(Tensor.newBuilder()
                .setDtype(DataType.DATA_TYPE_FLOAT32)
                .setData(NdArray.of(new float[] {3}).toTensor().getData())
                .build());
        assertArrayEquals(new long[0], scalar.shape());
        assertArrayEquals(new float[] {3}, scalar.floats());
        assertThrows(
                OptserveException.class,
                () -> NdArray.of(tensor.toBuilder().addShape(2).build()));
        assertThrows(IllegalArgumentException.class, () -> NdArray.of(new float[3], 2, 2));
    }

    /** Chunks have whole elements, and together all bytes, also if types of several sizes take turns. */
    @Test
    void chunksHaveWholeElements() throws IOException {
        List<Payload.Part> parts = new ArrayList<>();
        ByteBuffer wanted = ByteBuffer.allocate(4 << 20).order(ByteOrder.LITTLE_ENDIAN);
        for (int i = 0; i < 3; i++) {
            float[] floats = new float[100_001 + i];
            double[] doubles = new double[70_001];
            for (int j = 0; j < floats.length; j++) wanted.putFloat(floats[j] = j);
            for (int j = 0; j < doubles.length; j++) wanted.putDouble(doubles[j] = -j);
            parts.add(new Payload.Part(NdArray.of(floats), DataType.DATA_TYPE_FLOAT32));
            parts.add(new Payload.Part(NdArray.of(doubles), DataType.DATA_TYPE_FLOAT64));
            parts.add(new Payload.Part(NdArray.of(new float[0]), DataType.DATA_TYPE_FLOAT32));
        }
        Payload payload = new Payload(parts);
        ByteArrayOutputStream found = new ByteArrayOutputStream();
        for (Payload.Chunk chunk = payload.first(); chunk != null; chunk = chunk.next()) {
            assertEquals(found.size(), chunk.offset);
            chunk.writeTo(found);
            assertEquals(found.size(), chunk.offset + chunk.length);
        }
        byte[] bytes = new byte[wanted.position()];
        wanted.get(0, bytes);
        assertEquals(payload.byteCount(), bytes.length);
        assertArrayEquals(bytes, found.toByteArray());
    }
}
