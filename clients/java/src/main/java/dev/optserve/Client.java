package dev.optserve;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import com.google.protobuf.UnsafeByteOperations;
import dev.optserve.v1.*;
import io.grpc.*;
import io.grpc.stub.MetadataUtils;
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.TimeUnit;
import java.util.stream.*;

/**
 * A client of one server. Any number of threads may use it.
 *
 * <p>Every call is repeated, and applied once, until it has an answer or its deadline has come: that of gRPC's context,
 * or the client's timeout. It then throws {@link OptserveException}.
 */
public final class Client implements AutoCloseable {
    private static final long INLINE_BYTES = 1 << 20; // more are uploaded after a session is created
    private static final int IMPORT_BYTES = 1 << 20; // of a chunk

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
            return TlsChannelCredentials.newBuilder()
                    .trustManager(Path.of(authorities).toFile())
                    .build();
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
        return createSession(CreateSessionRequest.newBuilder().setSpec(spec).build(), values, newId());
    }

    /**
     * Creates a session with the parameters of the request, others of these values, and the name of the handle's worker.
     * Values of more than 1 MiB are uploaded when it is created; if that fails, it is deleted.
     */
    public TrainingSession createSession(CreateSessionRequest request, Map<String, NdArray> values, String worker) {
        long byteCount =
                values.values().stream().mapToLong(v -> v.byteCount(v.dtype())).sum();
        CreateSessionRequest.Builder complete = request.toBuilder();
        if (request.getRequestId().isEmpty()) complete.setRequestId(newId());
        values.forEach((name, value) -> {
            ParameterInit.Builder parameter = complete.addParametersBuilder().setName(name);
            if (byteCount <= INLINE_BYTES) parameter.setValue(value.toTensor());
            else
                parameter.setUpload(
                        TensorShape.newBuilder().setDtype(value.dtype()).addAllShape(extents(value.shape())));
        });
        var answer = connection.call(SessionServiceGrpc.getCreateSessionMethod(), complete.build());
        TrainingSession session = new TrainingSession(connection, answer.getSession(), worker);
        if (byteCount <= INLINE_BYTES) return session;
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
        var tensor = InitializedTensor.newBuilder()
                .setDtype(DataType.DATA_TYPE_FLOAT32)
                .setSpec(initializer);
        return ParameterInit.newBuilder()
                .setName(name)
                .setInitializer(tensor.addAllShape(extents(shape)))
                .build();
    }

    /** Returns a handle of an existing session, sessions/{id}, as a worker with a random name. */
    public TrainingSession openSession(String name) {
        return openSession(name, newId());
    }

    /** Returns a handle of an existing session; its steps continue with the next sequence of the worker. */
    public TrainingSession openSession(String name, String worker) {
        var request = GetSessionRequest.newBuilder().setName(name).build();
        var answer = connection.call(SessionServiceGrpc.getGetSessionMethod(), request);
        return new TrainingSession(connection, answer.getSession(), worker);
    }

    /** Lists the server's sessions in the order of their names. */
    public List<Session> listSessions() {
        List<Session> found = new ArrayList<>();
        String token = "";
        do {
            var request = ListSessionsRequest.newBuilder().setPageToken(token).build();
            ListSessionsResponse page = connection.call(SessionServiceGrpc.getListSessionsMethod(), request);
            found.addAll(page.getSessionsList());
            token = page.getNextPageToken();
        } while (!token.isEmpty());
        return found;
    }

    /** Creates a session from a file that {@link TrainingSession#export(Path)} wrote; the server chooses an empty id. */
    public TrainingSession importSession(Path file, String id) {
        long byteCount = file.toFile().length();
        var header =
                ImportHeader.newBuilder().setRequestId(newId()).setSessionId(id).setByteCount(byteCount);
        var first = ImportSnapshotRequest.newBuilder().setHeader(header).build();
        var method = SessionServiceGrpc.getImportSnapshotMethod();
        var answer = connection.call(connection.deadline(null, byteCount), options -> {
            try (InputStream source = Files.newInputStream(file)) {
                var chunks = LongStream.iterate(0, at -> at < byteCount, at -> at + IMPORT_BYTES)
                        .mapToObj(at -> chunk(source, at));
                return connection.upload(
                        method, options, Stream.concat(Stream.of(first), chunks).iterator());
            }
        });
        return new TrainingSession(connection, answer.getSession(), newId());
    }

    private static ImportSnapshotRequest chunk(InputStream source, long offset) {
        try {
            var bytes = UnsafeByteOperations.unsafeWrap(source.readNBytes(IMPORT_BYTES));
            var chunk = Chunk.newBuilder().setByteOffset(offset).setData(bytes);
            return ImportSnapshotRequest.newBuilder().setChunk(chunk).build();
        } catch (IOException failure) {
            throw new UncheckedIOException(failure);
        }
    }

    /** Computes the learning rates of steps, of which the first is 0. */
    public double[] evaluateSchedule(ScheduleSpec schedule, long... steps) {
        var at = StepList.newBuilder().addAllSteps(extents(steps));
        var request = EvaluateScheduleRequest.newBuilder().setSchedule(schedule).setSteps(at);
        var answer = connection.call(FunctionServiceGrpc.getEvaluateScheduleMethod(), request.build());
        return NdArray.of(answer.getValues()).doubles();
    }

    /** Computes a loss and, if requested, its values per example and its gradient. */
    public ComputeLossResponse computeLoss(ComputeLossRequest request) {
        return connection.call(FunctionServiceGrpc.getComputeLossMethod(), request);
    }

    /** Computes an activation. */
    public NdArray computeActivation(ComputeActivationRequest request) {
        return NdArray.of(connection
                .call(FunctionServiceGrpc.getComputeActivationMethod(), request)
                .getOutput());
    }

    /** Computes the gradient of an activation from that of its output. */
    public ComputeActivationGradientResponse computeActivationGradient(ComputeActivationGradientRequest request) {
        return connection.call(FunctionServiceGrpc.getComputeActivationGradientMethod(), request);
    }

    /** Computes the operations and the memory of a network, layer by layer. */
    public EstimateComplexityResponse estimateComplexity(EstimateComplexityRequest request) {
        return connection.call(FunctionServiceGrpc.getEstimateComplexityMethod(), request);
    }

    /** Returns what the server can do. */
    public GetCapabilitiesResponse getCapabilities() {
        return connection.call(
                CapabilitiesServiceGrpc.getGetCapabilitiesMethod(), GetCapabilitiesRequest.getDefaultInstance());
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

    private static String newId() {
        return UUID.randomUUID().toString();
    }

    private static List<Long> extents(long[] shape) {
        return Arrays.stream(shape).boxed().toList();
    }
}
