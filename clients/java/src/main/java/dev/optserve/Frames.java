package dev.optserve;

import com.google.protobuf.*;
import dev.optserve.v1.Chunk;
import io.grpc.*;
import io.grpc.MethodDescriptor.Marshaller;
import io.grpc.MethodDescriptor.PrototypeMarshaller;
import java.io.*;

/** Messages that end with a chunk, whose bytes go directly from the caller's arrays to gRPC's buffers, and back. */
final class Frames {
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

    /** Returns a method of the contract that sends its requests from payloads. */
    static <Q, A> MethodDescriptor<Outgoing, A> sending(MethodDescriptor<Q, A> method) {
        Encoder encoder = new Encoder(chunkField(prototype(method.getRequestMarshaller())));
        return method.toBuilder(encoder, method.getResponseMarshaller()).build();
    }

    /** Returns a method whose answers are not copied. */
    static <Q, A extends Message> MethodDescriptor<Q, Incoming<A>> receiving(MethodDescriptor<Q, A> method) {
        Decoder<A> decoder = new Decoder<>(prototype(method.getResponseMarshaller()));
        return method.toBuilder(method.getRequestMarshaller(), decoder).build();
    }

    private static <M> M prototype(Marshaller<M> marshaller) {
        return ((PrototypeMarshaller<M>) marshaller).getMessagePrototype();
    }

    /** Returns the number of the field that has a message's chunk, which is its last one. */
    private static int chunkField(Object prototype) {
        return ((Message) prototype)
                .getDescriptorForType()
                .findFieldByName("chunk")
                .getNumber();
    }

    private record Encoder(int chunkField) implements Marshaller<Outgoing> {
        @Override
        public InputStream stream(Outgoing message) {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            CodedOutputStream head = CodedOutputStream.newInstance(bytes, 256);
            Payload.Chunk chunk = message.chunk;
            try {
                message.head.writeTo(head);
                if (chunk != null) {
                    head.writeTag(chunkField, WireFormat.WIRETYPE_LENGTH_DELIMITED);
                    head.writeUInt32NoTag(CodedOutputStream.computeUInt64Size(1, chunk.offset())
                            + CodedOutputStream.computeUInt32Size(2, chunk.length())
                            + chunk.length());
                    head.writeUInt64(Chunk.BYTE_OFFSET_FIELD_NUMBER, chunk.offset());
                    head.writeUInt32NoTag(DATA_TAG);
                    head.writeUInt32NoTag(chunk.length());
                }
                head.flush();
            } catch (IOException unexpected) {
                throw new UncheckedIOException(unexpected);
            }
            return new Encoded(bytes.toByteArray(), chunk);
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
        public int available() {
            return head.length + (chunk == null ? 0 : chunk.length());
        }

        @Override
        public int read() {
            throw new UnsupportedOperationException("transports to other processes drain messages");
        }
    }

    private record Decoder<A extends Message>(A prototype) implements Marshaller<Incoming<A>> {
        @Override
        public InputStream stream(Incoming<A> message) {
            throw new UnsupportedOperationException("these messages are only received");
        }

        @Override
        public Incoming<A> parse(InputStream stream) {
            InputStream data = stream instanceof Detachable detachable ? detachable.detach() : stream;
            ByteArrayOutputStream head = new ByteArrayOutputStream();
            try {
                boolean hasChunk = copyUpToChunk(data, CodedOutputStream.newInstance(head, 256));
                @SuppressWarnings("unchecked") // a message's parser makes messages of its type
                A message = (A) prototype.getParserForType().parseFrom(head.toByteArray());
                long offset = 0;
                while (hasChunk) {
                    int tag = (int) readVarint(data);
                    long value = readVarint(data);
                    if (tag == DATA_TAG) return new Incoming<>(message, offset, (int) value, data);
                    if (tag >>> 3 == Chunk.BYTE_OFFSET_FIELD_NUMBER) offset = value;
                }
                return new Incoming<>(message, 0, 0, data);
            } catch (IOException malformed) {
                String text = "a message cannot be decoded";
                throw Status.INTERNAL.withDescription(text).withCause(malformed).asRuntimeException();
            }
        }

        /** Copies the fields before the chunk; returns whether there is one, whose fields are next. */
        private boolean copyUpToChunk(InputStream data, CodedOutputStream head) throws IOException {
            int chunkField = chunkField(prototype);
            boolean hasChunk = false;
            while (!hasChunk && data.available() > 0) {
                int tag = (int) readVarint(data);
                int type = WireFormat.getTagWireType(tag);
                int fixed = type == WireFormat.WIRETYPE_FIXED64 ? 8 : type == WireFormat.WIRETYPE_FIXED32 ? 4 : 0;
                long value = fixed > 0 ? fixed : readVarint(data); // or the length of one
                hasChunk = tag >>> 3 == chunkField && value > 0;
                if (hasChunk) break;
                head.writeUInt32NoTag(tag);
                if (fixed == 0) head.writeUInt64NoTag(value);
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
