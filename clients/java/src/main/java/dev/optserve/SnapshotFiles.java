package dev.optserve;

import com.google.protobuf.ByteString;
import com.google.protobuf.UnsafeByteOperations;
import dev.optserve.Frames.Incoming;
import dev.optserve.v1.Chunk;
import dev.optserve.v1.ExportSnapshotRequest;
import dev.optserve.v1.ExportSnapshotResponse;
import dev.optserve.v1.ImportHeader;
import dev.optserve.v1.ImportSnapshotRequest;
import dev.optserve.v1.Session;
import dev.optserve.v1.SessionServiceGrpc;
import io.grpc.Deadline;
import io.grpc.MethodDescriptor;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Iterator;
import java.util.UUID;

/** Exchanges snapshots between a server and files. */
final class SnapshotFiles {
    private static final int CHUNK_BYTES = 1 << 20;
    private static final MethodDescriptor<ExportSnapshotRequest, Incoming<ExportSnapshotResponse>> EXPORT =
            SessionServiceGrpc.getExportSnapshotMethod()
                    .toBuilder(
                            SessionServiceGrpc.getExportSnapshotMethod().getRequestMarshaller(),
                            new Frames.Decoder<>(
                                    ExportSnapshotResponse.parser(), ExportSnapshotResponse.CHUNK_FIELD_NUMBER))
                    .build();

    private SnapshotFiles() {}

    /** Writes a session or a snapshot to a file; returns its step. */
    static long write(Connection connection, Deadline deadline, String source, Path file) throws IOException {
        ExportSnapshotRequest request =
                ExportSnapshotRequest.newBuilder().setName(source).build();
        try {
            return connection.call(
                    deadline,
                    options -> connection.download(EXPORT, options, request, answers -> write(answers, file)));
        } catch (UncheckedIOException failure) {
            throw failure.getCause();
        }
    }

    private static long write(Iterator<Incoming<ExportSnapshotResponse>> answers, Path file) {
        long step = 0;
        long left = 0;
        try (OutputStream target = Files.newOutputStream(file)) {
            do {
                try (Incoming<ExportSnapshotResponse> answer = answers.next()) {
                    if (answer.head().hasHeader()) {
                        step = answer.head().getHeader().getStep();
                        left = answer.head().getHeader().getByteCount();
                    }
                    left -= answer.data().transferTo(target);
                }
            } while (left > 0);
            return step;
        } catch (IOException failure) {
            throw new UncheckedIOException(failure);
        }
    }

    /** Creates a session from a file. */
    static Session read(Connection connection, Path file, String id) throws IOException {
        long byteCount = Files.size(file);
        ImportHeader header = ImportHeader.newBuilder()
                .setRequestId(UUID.randomUUID().toString())
                .setSessionId(id)
                .setByteCount(byteCount)
                .build();
        var method = SessionServiceGrpc.getImportSnapshotMethod();
        try {
            return connection.call(connection.deadline(null, byteCount), options -> {
                try (InputStream source = Files.newInputStream(file)) {
                    return connection.upload(method, options, messages(header, source)).getSession();
                } catch (IOException failure) {
                    throw new UncheckedIOException(failure);
                }
            });
        } catch (UncheckedIOException failure) {
            throw failure.getCause();
        }
    }

    private static Iterator<ImportSnapshotRequest> messages(ImportHeader header, InputStream source) {
        return new Iterator<>() {
            private long offset = -1; // before the header

            @Override
            public boolean hasNext() {
                return offset < header.getByteCount();
            }

            @Override
            public ImportSnapshotRequest next() {
                ImportSnapshotRequest.Builder request = ImportSnapshotRequest.newBuilder();
                if (offset < 0) {
                    offset = 0;
                    return request.setHeader(header).build();
                }
                try {
                    ByteString bytes = UnsafeByteOperations.unsafeWrap(source.readNBytes(CHUNK_BYTES));
                    if (bytes.isEmpty()) throw new IOException("the file has become shorter");
                    request.setChunk(Chunk.newBuilder().setByteOffset(offset).setData(bytes));
                    offset += bytes.size();
                    return request.build();
                } catch (IOException failure) {
                    throw new UncheckedIOException(failure);
                }
            }
        };
    }
}
