package dev.optserve;

import com.google.protobuf.*;
import dev.optserve.v1.Chunk;
import io.grpc.*;
import io.grpc.MethodDescriptor.Marshaller;
import io.grpc.MethodDescriptor.PrototypeMarshaller;
import java.io.*;

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
        var fields = ((Message) prototype).getDescriptorForType();
        return fields.findFieldByName("chunk").getNumber();
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
                    head.writeUInt32NoTag(CodedOutputStream.computeUInt64Size(1, chunk.offset)
                            + CodedOutputStream.computeUInt32Size(2, chunk.length)
                            + chunk.length);
                    head.writeUInt64(Chunk.BYTE_OFFSET_FIELD_NUMBER, chunk.offset);
                    head.writeUInt32NoTag(DATA_TAG);
                    head.writeUInt32NoTag(chunk.length);
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
            return head.length + (chunk == null ? 0 : chunk.length);
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
            // Returns a byte at a time, so that the buffered reader takes none of those that follow.
            CodedInputStream input = CodedInputStream.newInstance(new FilterInputStream(data) {
                @Override
                public int read(byte[] to, int offset, int length) throws IOException {
                    return super.read(to, offset, Math.min(length, 1));
                }
            });
            UnknownFieldSet.Builder head = UnknownFieldSet.newBuilder();
            int chunkField = chunkField(prototype);
            try {
                int tag = input.readTag();
                for (; tag != 0 && tag >>> 3 != chunkField; tag = input.readTag()) head.mergeFieldFrom(tag, input);
                @SuppressWarnings("unchecked") // a message's parser makes messages of its type
                A message =
                        (A) prototype.getParserForType().parseFrom(head.build().toByteString());
                if (tag == 0 || input.readUInt32() == 0) return new Incoming<>(message, 0, 0, data);
                long offset = 0;
                for (tag = input.readTag(); tag != 0 && tag != DATA_TAG; tag = input.readTag()) {
                    if (tag == OFFSET_TAG) offset = input.readUInt64();
                    else input.skipField(tag);
                }
                return new Incoming<>(message, offset, tag == 0 ? 0 : input.readUInt32(), data);
            } catch (IOException malformed) {
                String text = "a message cannot be decoded";
                throw Status.INTERNAL.withDescription(text).withCause(malformed).asRuntimeException();
            }
        }
    }
}
