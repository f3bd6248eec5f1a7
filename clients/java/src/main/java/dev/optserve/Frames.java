package dev.optserve;

import com.google.protobuf.CodedOutputStream;
import com.google.protobuf.MessageLite;
import com.google.protobuf.Parser;
import com.google.protobuf.WireFormat;
import dev.optserve.v1.Chunk;
import io.grpc.Detachable;
import io.grpc.Drainable;
import io.grpc.KnownLength;
import io.grpc.MethodDescriptor.Marshaller;
import io.grpc.Status;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.Closeable;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;

/** Messages that end with a chunk, whose bytes go directly from the caller's arrays to gRPC's buffers, and back. */
final class Frames {
    private static final int OFFSET_TAG = Chunk.BYTE_OFFSET_FIELD_NUMBER << 3 | WireFormat.WIRETYPE_VARINT;
    private static final int DATA_TAG = Chunk.DATA_FIELD_NUMBER << 3 | WireFormat.WIRETYPE_LENGTH_DELIMITED;

    private Frames() {}

    /** A message to send: what is before the chunk, and the chunk or null. */
    record Outgoing(MessageLite head, Payload.Chunk chunk) {}

    /** A received message: what is before the chunk, and the chunk, which is read once from gRPC's buffers. */
    record Incoming<M>(M head, long offset, int length, InputStream data) implements Closeable {
        @Override
        public void close() throws IOException {
            data.close();
        }
    }

    /** Encodes messages; chunkField is the number of the field that has the chunk. */
    record Encoder(int chunkField) implements Marshaller<Outgoing> {
        @Override
        public InputStream stream(Outgoing message) {
            ByteArrayOutputStream head = new ByteArrayOutputStream();
            try {
                message.head.writeTo(head);
                if (message.chunk != null) begin(message.chunk, CodedOutputStream.newInstance(head, 64));
            } catch (IOException unexpected) {
                throw new UncheckedIOException(unexpected);
            }
            return new Encoded(head.toByteArray(), message.chunk);
        }

        private void begin(Payload.Chunk chunk, CodedOutputStream out) throws IOException {
            int length = chunk.length() + CodedOutputStream.computeUInt32Size(Chunk.DATA_FIELD_NUMBER, chunk.length());
            length += CodedOutputStream.computeUInt64Size(Chunk.BYTE_OFFSET_FIELD_NUMBER, chunk.offset());
            out.writeTag(chunkField, WireFormat.WIRETYPE_LENGTH_DELIMITED);
            out.writeUInt32NoTag(length);
            out.writeUInt64(Chunk.BYTE_OFFSET_FIELD_NUMBER, chunk.offset());
            out.writeUInt32NoTag(DATA_TAG);
            out.writeUInt32NoTag(chunk.length());
            out.flush();
        }

        @Override
        public Outgoing parse(InputStream stream) {
            throw new UnsupportedOperationException("these messages are only sent");
        }
    }

    /** The bytes of a message, which are written to where gRPC wants them. */
    private static final class Encoded extends InputStream implements Drainable, KnownLength {
        private final byte[] head;
        private final Payload.Chunk chunk;
        private InputStream copy; // made only for a transport that reads

        Encoded(byte[] head, Payload.Chunk chunk) {
            this.head = head;
            this.chunk = chunk;
        }

        @Override
        public int drainTo(OutputStream target) throws IOException {
            target.write(head);
            if (chunk != null) chunk.writeTo(target);
            return available();
        }

        @Override
        public int available() throws IOException {
            return copy != null ? copy.available() : head.length + (chunk == null ? 0 : chunk.length());
        }

        @Override
        public int read() throws IOException {
            if (copy == null) {
                ByteArrayOutputStream bytes = new ByteArrayOutputStream(available());
                drainTo(bytes);
                copy = new ByteArrayInputStream(bytes.toByteArray());
            }
            return copy.read();
        }
    }

    /** Decodes messages; chunkField is the number of the field that has the chunk, which is the last one. */
    record Decoder<M extends MessageLite>(Parser<M> parser, int chunkField) implements Marshaller<Incoming<M>> {
        @Override
        public InputStream stream(Incoming<M> message) {
            throw new UnsupportedOperationException("these messages are only received");
        }

        @Override
        public Incoming<M> parse(InputStream stream) {
            InputStream data = stream instanceof Detachable detachable ? detachable.detach() : stream;
            ByteArrayOutputStream head = new ByteArrayOutputStream();
            try {
                boolean hasChunk = copyUpToChunk(data, CodedOutputStream.newInstance(head, 256));
                M message = parser.parseFrom(head.toByteArray());
                long offset = 0;
                while (hasChunk) {
                    int tag = (int) readVarint(data);
                    long value = readVarint(data);
                    if (tag == DATA_TAG) return new Incoming<>(message, offset, (int) value, data);
                    if (tag == OFFSET_TAG) offset = value;
                }
                return new Incoming<>(message, 0, 0, data);
            } catch (IOException malformed) {
                throw Status.INTERNAL
                        .withDescription("a message cannot be decoded")
                        .withCause(malformed)
                        .asRuntimeException();
            }
        }

        /** Copies the fields before the chunk; returns whether there is one, whose bytes are next. */
        private boolean copyUpToChunk(InputStream data, CodedOutputStream head) throws IOException {
            boolean hasChunk = false;
            while (!hasChunk && data.available() > 0) {
                int tag = (int) readVarint(data);
                int type = WireFormat.getTagWireType(tag);
                long value = type == WireFormat.WIRETYPE_FIXED64 ? 8 : type == WireFormat.WIRETYPE_FIXED32 ? 4 : -1;
                if (value < 0) value = readVarint(data); // or the length of one
                hasChunk = tag >>> 3 == chunkField && value > 0;
                if (hasChunk) break;
                head.writeUInt32NoTag(tag);
                if (type == WireFormat.WIRETYPE_VARINT || type == WireFormat.WIRETYPE_LENGTH_DELIMITED) {
                    head.writeUInt64NoTag(value);
                }
                if (type != WireFormat.WIRETYPE_VARINT) head.writeRawBytes(data.readNBytes((int) value));
            }
            head.flush();
            return hasChunk;
        }

        private static long readVarint(InputStream data) throws IOException {
            long value = 0;
            for (int shift = 0; shift < 64; shift += 7) {
                int next = data.read();
                if (next < 0) break;
                value |= (next & 0x7fL) << shift;
                if (next < 0x80) return value;
            }
            throw new IOException("a number is cut off or too long");
        }
    }
}
