package dev.optserve;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import com.google.protobuf.*;
import dev.optserve.v1.*;
import io.grpc.*;
import io.grpc.stub.MetadataUtils;
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.TimeUnit;

/**
 * A client of one server. Any number of threads may use it.
 *
 * <p>Every call is repeated, and applied once, until it has an answer or its deadline has come: that of gRPC's context,
 * or the client's timeout. It then throws {@link OptserveException}.
 */
public final class Client implements AutoCloseable {
    private static final long INLINE_BYTES = 1 << 20; // more are uploaded after a session is created
    private static final int IMPORT_BYTES = 1 << 20; // of a chunk

    private static final MethodDescriptor<ExportSnapshotRequest, Frames.Incoming<ExportSnapshotResponse>> EXPORT =
            Frames.receiving(SessionServiceGrpc.getExportSnapshotMethod());
    private static final Duration UNBOUNDED = Duration.ofDays(36500);

    private final Connection connection;

    private Client(Connection connection) {
        this.connection = connection;
    }

    /** Returns a client of a server, such as localhost:50051, with what else the environment sets. */
    public static Client connect(String target) throws IOException {
        return builder().target(target).connect();
    }

    /** Returns the settings of a client. */
    public static Builder builder() {
        return new Builder();
    }

    /** Settings of a client. What is not set is taken from the environment. */
    public static final class Builder {
        private String target = System.getenv("OPTSERVE_SERVER");
        private String token = System.getenv("OPTSERVE_TOKEN");
        private final String authorities = System.getenv("OPTSERVE_CA");
        private ChannelCredentials credentials;
        private Duration timeout = Duration.ofMinutes(1);

        private Builder() {}

        /** Sets the address of the server, such as localhost:50051; OPTSERVE_SERVER by default. */
        public Builder target(String target) {
            this.target = target;
            return this;
        }

        /** Sends a token with every call; OPTSERVE_TOKEN by default. Without TLS it is not encrypted. */
        public Builder token(String token) {
            this.token = token;
            return this;
        }

        /** Encrypts the connection, by {@link TlsChannelCredentials}; by default if OPTSERVE_CA names a PEM file. */
        public Builder credentials(ChannelCredentials credentials) {
            this.credentials = credentials;
            return this;
        }

        /** Bounds calls with all attempts, a minute by default; a transfer gets a second more for each 10 MB. */
        public Builder timeout(Duration timeout) {
            this.timeout = timeout;
            return this;
        }

        /**
         * Returns the client. It connects at the first call, and again whenever the connection is lost.
         *
         * @throws IOException the file of the authorities cannot be read
         */
        public Client connect() throws IOException {
            if (target == null || target.isEmpty()) {
                throw new IllegalStateException("there is no target, and OPTSERVE_SERVER is not set");
            }
            ManagedChannelBuilder<?> channel = Grpc.newChannelBuilder(target, channelCredentials())
                    .userAgent("optserve-java")
                    .directExecutor() // nothing that waits runs in gRPC's callbacks
                    .maxInboundMessageSize(Integer.MAX_VALUE)
                    .defaultServiceConfig(serviceConfig())
                    // More often than balancers forget a silent connection (350 s), and less often than servers
                    // allow by default (300 s).
                    .keepAliveTime(330, TimeUnit.SECONDS)
                    .keepAliveTimeout(20, TimeUnit.SECONDS);
            if (token != null && !token.isEmpty()) {
                Metadata headers = new Metadata();
                headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
                channel.intercept(MetadataUtils.newAttachHeadersInterceptor(headers));
            }
            return new Client(new Connection(channel.build(), timeout));
        }

        private ChannelCredentials channelCredentials() throws IOException {
            if (credentials != null) return credentials;
            if (authorities == null || authorities.isEmpty()) return InsecureChannelCredentials.create();
            File trusted = new File(authorities);
            return TlsChannelCredentials.newBuilder().trustManager(trusted).build();
        }

        private static Map<String, ?> serviceConfig() throws IOException {
            try (Reader json = new InputStreamReader(
                    Client.class.getResourceAsStream("/dev/optserve/service_config.json"), StandardCharsets.UTF_8)) {
                return new Gson().fromJson(json, new TypeToken<Map<String, ?>>() {}.getType());
            }
        }
    }

    /** Creates a session with parameters of these values. */
    public TrainingSession createSession(SessionSpec spec, Map<String, NdArray> values) {
        return createSession(CreateSessionRequest.newBuilder().setSpec(spec).build(), values, Connection.newId());
    }

    /**
     * Creates a session with the parameters of the request, others of these values, and the name of the handle's worker.
     * Values of more than 1 MiB are uploaded when it is created; if that fails, it is deleted.
     */
    public TrainingSession createSession(CreateSessionRequest request, Map<String, NdArray> values, String worker) {
        long byteCount = 0;
        for (NdArray value : values.values()) byteCount += value.byteCount(value.dtype());
        boolean isInline = byteCount <= INLINE_BYTES;
        CreateSessionRequest.Builder complete = request.toBuilder();
        values.forEach((name, value) -> {
            ParameterInit.Builder parameter = complete.addParametersBuilder().setName(name);
            var shape = TensorShape.newBuilder().setDtype(value.dtype()).addAllShape(NdArray.extents(value.shape()));
            if (isInline) parameter.setValue(value.toTensor());
            else parameter.setUpload(shape);
        });
        var answer = call(SessionServiceGrpc.getCreateSessionMethod(), complete.build());
        TrainingSession session = new TrainingSession(connection, answer.getSession(), worker);
        if (isInline) return session;
        try {
            session.push(values);
            return session;
        } catch (RuntimeException failure) {
            try {
                session.delete();
            } catch (OptserveException another) {
                failure.addSuppressed(another);
            }
            throw failure;
        }
    }

    /** Returns a float32 parameter whose initial value the server computes, for a request to create a session. */
    public static ParameterInit initialized(String name, InitializerSpec initializer, long... shape) {
        var tensor = InitializedTensor.newBuilder().setSpec(initializer).addAllShape(NdArray.extents(shape));
        tensor.setDtype(DataType.DATA_TYPE_FLOAT32);
        var parameter = ParameterInit.newBuilder().setName(name);
        return parameter.setInitializer(tensor).build();
    }

    /** Returns a handle of an existing session, sessions/{id}, as a worker with a random name. */
    public TrainingSession openSession(String name) {
        return openSession(name, Connection.newId());
    }

    /** Returns a handle of an existing session; its steps continue with the next sequence of the worker. */
    public TrainingSession openSession(String name, String worker) {
        var request = GetSessionRequest.newBuilder().setName(name).build();
        var answer = call(SessionServiceGrpc.getGetSessionMethod(), request);
        return new TrainingSession(connection, answer.getSession(), worker);
    }

    /**
     * Writes a session, sessions/{id}, or one of its snapshots to a safetensors file; a part of it after an error.
     *
     * @return the step in the file
     */
    public long exportSnapshot(String name, Path file) {
        var request = ExportSnapshotRequest.newBuilder().setName(name).build();
        return connection.call(connection.deadline(UNBOUNDED, 0), options -> {
            var header = SnapshotHeader.newBuilder();
            try (OutputStream target = Files.newOutputStream(file)) {
                connection.download(EXPORT, options, request, answer -> {
                    header.mergeFrom(answer.head().getHeader());
                    answer.data().transferTo(target);
                });
            }
            return header.getStep();
        });
    }

    /** Creates a session from a file that {@link #exportSnapshot} wrote; the server chooses an empty id. */
    public TrainingSession importSession(Path file, String id) {
        long byteCount = file.toFile().length();
        var header = ImportHeader.newBuilder().setSessionId(id).setByteCount(byteCount);
        header.setRequestId(Connection.newId());
        var method = SessionServiceGrpc.getImportSnapshotMethod();
        var answer = connection.call(connection.deadline(null, byteCount), options -> {
            try (InputStream source = Files.newInputStream(file)) {
                return connection.upload(method, options, call -> {
                    var request = ImportSnapshotRequest.newBuilder().setHeader(header);
                    for (long at = 0; call.write(request.build()) && at < byteCount; at += IMPORT_BYTES) {
                        var bytes = UnsafeByteOperations.unsafeWrap(source.readNBytes(IMPORT_BYTES));
                        request.setChunk(Chunk.newBuilder().setByteOffset(at).setData(bytes));
                        request.clearHeader();
                    }
                });
            }
        });
        return new TrainingSession(connection, answer.getSession(), Connection.newId());
    }

    /**
     * Makes any call of the contract that has one request and one answer, such as {@code
     * call(FunctionServiceGrpc.getComputeLossMethod(), request)}. A change gets a request id, unless it has one.
     */
    public <Q extends Message, A> A call(MethodDescriptor<Q, A> method, Q request) {
        return connection.call(method, request, Map.of());
    }

    /** Returns the channel, for services that this client does not cover, such as grpc.health.v1. */
    public Channel channel() {
        return connection.channel;
    }

    /** Ends the connection. Calls and steps under way fail. */
    @Override
    public void close() {
        connection.close();
    }
}
