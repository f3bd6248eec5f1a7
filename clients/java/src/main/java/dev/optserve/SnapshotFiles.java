package dev.optserve;

import com.google.protobuf.UnsafeByteOperations;
import dev.optserve.Frames.Incoming;
import dev.optserve.v1.*;
import io.grpc.Deadline;
import io.grpc.MethodDescriptor;
import java.io.*;
import java.nio.file.*;
import java.util.stream.*;

/** Exchanges snapshots between a server and files. */
final class SnapshotFiles {
    private static final int CHUNK_BYTES = 1 << 20;
    private static final MethodDescriptor<ExportSnapshotRequest, Incoming<ExportSnapshotResponse>> EXPORT =
            Frames.receiving(SessionServiceGrpc.getExportSnapshotMethod());

    private SnapshotFiles() {}

    /** Writes a session or a snapshot to a file; returns its step. */
    static long write(Connection connection, Deadline deadline, String source, Path file) {
        var request = ExportSnapshotRequest.newBuilder().setName(source).build();
        return connection.call(deadline, options -> {
            SnapshotHeader.Builder header = SnapshotHeader.newBuilder();
            try (OutputStream target = Files.newOutputStream(file)) {
                connection.download(EXPORT, options, request, answer -> {
                    header.mergeFrom(answer.head().getHeader());
                    answer.data().transferTo(target);
                });
            }
            return header.getStep();
        });
    }

    /** Creates a session from a file. */
    static Session read(Connection connection, Path file, String id, String requestId) {
        long byteCount = file.toFile().length();
        var header = ImportHeader.newBuilder()
                .setRequestId(requestId)
                .setSessionId(id)
                .setByteCount(byteCount);
        var first = ImportSnapshotRequest.newBuilder().setHeader(header).build();
        return connection.call(connection.deadline(null, byteCount), options -> {
            try (InputStream source = Files.newInputStream(file)) {
                var chunks = LongStream.iterate(0, at -> at < byteCount, at -> at + CHUNK_BYTES)
                        .mapToObj(at -> chunk(source, at));
                var requests = Stream.concat(Stream.of(first), chunks).iterator();
                return connection
                        .upload(SessionServiceGrpc.getImportSnapshotMethod(), options, requests)
                        .getSession();
            }
        });
    }

    private static ImportSnapshotRequest chunk(InputStream source, long offset) {
        try {
            var bytes = UnsafeByteOperations.unsafeWrap(source.readNBytes(CHUNK_BYTES));
            return ImportSnapshotRequest.newBuilder()
                    .setChunk(Chunk.newBuilder().setByteOffset(offset).setData(bytes))
                    .build();
        } catch (IOException failure) {
            throw new UncheckedIOException(failure);
        }
    }
}
