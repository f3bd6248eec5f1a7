package dev.optserve;

import com.google.protobuf.MessageLite;
import dev.optserve.v1.DataType;
import io.grpc.StatusException;
import io.grpc.stub.BlockingClientCall;
import java.io.*;
import java.nio.*;
import java.util.*;

/** The bytes of arrays, one after the other, each in its element type on the wire. */
final class Payload {
    private static final int CHUNK_BYTES = 1 << 20;
    private static final int SCRATCH_BYTES = 1 << 15; // stays in a cache of the processor

    /** An array and its element type on the wire. */
    record Part(NdArray array, DataType wire) {}

    private final List<Part> parts;
    private final long byteCount;

    Payload(List<Part> parts) {
        this.parts = parts;
        byteCount = parts.stream().mapToLong(p -> p.array.byteCount(p.wire)).sum();
    }

    long byteCount() {
        return byteCount;
    }

    /** Returns the first chunk; null if there are no bytes. */
    Chunk first() {
        return byteCount == 0 ? null : new Chunk(0, 0, 0);
    }

    /** Sends all bytes, until the call has ended; the first message begins with a header. */
    <A> void send(MessageLite header, BlockingClientCall<Frames.Outgoing, A> call)
            throws StatusException, InterruptedException {
        MessageLite head = header;
        Chunk chunk = first();
        while (call.write(new Frames.Outgoing(head, chunk)) && chunk != null && (chunk = chunk.next()) != null) {
            head = header.getDefaultInstanceForType();
        }
    }

    /** A range of the bytes, of whole elements. */
    final class Chunk {
        final long offset;
        private final int part; // where it begins
        private final int element;
        int length;
        private int endPart; // where the next one begins
        private int endElement;

        private Chunk(long offset, int part, int element) {
            this.offset = offset;
            this.part = part;
            this.element = element;
            endPart = part;
            endElement = element;
            while (endPart < parts.size()) {
                Part current = parts.get(endPart);
                int size = Elements.sizeOf(current.wire);
                int some = Math.min(current.array.size() - endElement, (CHUNK_BYTES - length) / size);
                length += some * size;
                endElement += some;
                if (endElement < current.array.size()) break;
                endPart++;
                endElement = 0;
            }
        }

        /** Returns the chunk behind this one; null if this is the last. */
        Chunk next() {
            return offset + length == byteCount ? null : new Chunk(offset + length, endPart, endElement);
        }

        /** Writes the bytes. The arrays are read now. */
        void writeTo(OutputStream target) throws IOException {
            ByteBuffer scratch =
                    ByteBuffer.allocate(Math.min(SCRATCH_BYTES, length)).order(ByteOrder.LITTLE_ENDIAN);
            int begin = element;
            for (int i = part; i <= endPart && i < parts.size(); i++, begin = 0) {
                Part current = parts.get(i);
                int end = i == endPart ? endElement : current.array.size();
                while (begin < end) {
                    int some = Math.min(end - begin, scratch.remaining() / Elements.sizeOf(current.wire));
                    Elements.encode(current.array.elements(), begin, some, current.wire, scratch);
                    begin += some;
                    if (begin < end) drain(scratch, target);
                }
            }
            drain(scratch, target);
        }

        private static void drain(ByteBuffer scratch, OutputStream target) throws IOException {
            target.write(scratch.array(), 0, scratch.position());
            scratch.clear();
        }
    }
}
