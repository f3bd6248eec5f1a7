package dev.optserve;

import static dev.optserve.Fixtures.adam;
import static dev.optserve.Fixtures.assertReason;
import static dev.optserve.Fixtures.capabilities;
import static dev.optserve.Fixtures.describe;
import static dev.optserve.Fixtures.session;
import static dev.optserve.Fixtures.sgd;
import static dev.optserve.Fixtures.step;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.optserve.OptserveException.Applied;
import dev.optserve.v1.*;
import io.grpc.Status;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TrainingTest {
    private Client client;

    @BeforeEach
    void connect() throws IOException {
        client = Fixtures.connect();
    }

    @AfterEach
    void close() {
        client.close();
    }

    @Test
    void stepFillsTheCallersArray() {
        TrainingSession session = session(client, sgd(0.5), 1, 2);
        float[] w = new float[2];
        StepAnswer answer = session.step(step(3, 4).into("w", w).tensorNorms());
        assertArrayEquals(new float[] {-0.5f, 0}, w);
        assertEquals(1, answer.step());
        assertEquals(5, answer.result().getGradientNorm());
        assertEquals(5, answer.result().getTensorNorms(0).getNorm());
        assertEquals(w, answer.parameters().floats("w"));
        assertTrue(session.step(step(3, 4)).parameters().arrays().isEmpty());
    }

    @Test
    void buffersAndDoublesAreViews() {
        Map<String, NdArray> values = Map.of("w", NdArray.of(new double[] {1, 2, 3, 4}, 2, 2));
        TrainingSession session = client.createSession(sgd(1), values);
        FloatBuffer gradient = FloatBuffer.wrap(new float[] {9, 1, 2, 3, 4}).position(1);
        double[] w = new double[4];
        session.step(new Step().gradient("w", NdArray.of(gradient)).into("w", NdArray.of(w, 2, 2)));
        assertArrayEquals(new double[4], w);
        FloatBuffer direct = java.nio.ByteBuffer.allocateDirect(16)
                .order(java.nio.ByteOrder.nativeOrder())
                .asFloatBuffer();
        session.pull(PullParametersRequest.getDefaultInstance(), Map.of("w", NdArray.of(direct)));
        assertEquals(0, direct.get(3));
    }

    @Test
    void optionsOfAStep() {
        TrainingSession session = session(client, sgd(0.5), 1, 2);
        HyperparameterOverride rate = HyperparameterOverride.newBuilder()
                .setName("learning_rate")
                .setValue(0.25)
                .build();
        StepStart options = StepStart.newBuilder()
                .setLossScale(8)
                .setExpectedStep(0)
                .addOverrides(rate)
                .build();
        assertArrayEquals(
                new float[] {0.75f, 1.75f},
                session.step(step(8, 8).pull().options(options)).parameters().floats("w"));
        StepStart validation = StepStart.newBuilder().setValidateOnly(true).build();
        StepAnswer checked = session.step(step(8, 8).pull().options(validation));
        assertEquals(StepOutcome.STEP_OUTCOME_VALIDATED, checked.result().getOutcome());
        assertEquals(1, checked.parameters().step());
        Step rows = new Step().rows("w", NdArray.of(new long[] {1, 1}), NdArray.of(new float[] {1, 1}));
        StepAnswer answer = session.step(rows.pull().expectedStep(1));
        assertArrayEquals(new float[] {0.75f, 0.75f}, answer.parameters().floats("w"));
    }

    @Test
    void halfPrecisionOnTheWire() {
        TrainingSession session = session(client, sgd(1), 0, 0);
        for (DataType wire : List.of(DataType.DATA_TYPE_FLOAT16, DataType.DATA_TYPE_BFLOAT16)) {
            PullOptions pull = PullOptions.newBuilder().setWireDtype(wire).build();
            StepAnswer answer =
                    session.step(step(-1.5f, 1.0009765625f).wireType(wire).pull(pull));
            assertEquals(1.5f * answer.step(), answer.parameters().floats("w")[0]);
        }
        // 1.0009765625 is exact in float16, and 1 in bfloat16.
        assertArrayEquals(new float[] {3, -2.0009765625f}, session.pull().floats("w"));
    }

    /** Sends tensors of several types that are cut by chunks at odd places. */
    @Test
    void largeStepsOfManyTensors() {
        Map<String, NdArray> values = new HashMap<>();
        Step step = new Step();
        for (int i = 0; i < 5; i++) {
            int size = 300_007 + i;
            values.put("t" + i, i % 3 == 1 ? NdArray.of(new double[size]) : NdArray.of(new float[size]));
            float[] gradient = new float[size];
            for (int j = 0; j < size; j++) gradient[j] = (i + 1) * (j % 1021) / 512f;
            step.gradient("t" + i, gradient);
        }
        TrainingSession session = client.createSession(sgd(1), values);
        float[] first = new float[300_008]; // float64 on the server
        StepAnswer answer = session.step(step.into("t1", first));
        for (int i = 0; i < 5; i++) {
            NdArray found = answer.parameters().arrays().get("t" + i);
            for (int j = 0; j < found.size(); j += 7) {
                double value = i == 4 ? found.doubles()[j] : found.floats()[j];
                assertEquals(-(i + 1) * (j % 1021) / 512.0, value);
            }
        }
        session.delete();
    }

    @Test
    void streamAnswersInOrder() {
        TrainingSession session = session(client, sgd(1), 0);
        List<CompletableFuture<StepAnswer>> answers = new ArrayList<>();
        try (StepStream stream = session.stream(4)) {
            for (int i = 0; i < 20; i++) answers.add(stream.submit(step(i).pull()));
        }
        float sum = 0;
        for (int i = 0; i < 20; i++) {
            StepAnswer answer = answers.get(i).join();
            sum -= i;
            assertEquals(i + 1, answer.step());
            assertEquals(sum, answer.parameters().floats("w")[0]);
        }
        assertReason("OUT_OF_RANGE", () -> session.stream(65));
    }

    @Test
    void stepsBehindARejectedOneFail() {
        TrainingSession session = session(client, sgd(1), 0);
        StepStream stream = session.stream(8);
        var bad = stream.submit(step(Float.NaN));
        var behind = stream.submit(step(1));
        assertReason("NON_FINITE_GRADIENT", () -> {
            throw assertThrows(CompletionException.class, bad::join).getCause();
        });
        OptserveException error = (OptserveException)
                assertThrows(CompletionException.class, behind::join).getCause();
        assertEquals(Status.Code.ABORTED, error.code());
        assertEquals(Applied.NO, error.applied());
        assertThrows(CompletionException.class, stream.submit(step(1))::join);
        StepAnswer answer = session.stream(8).submit(step(1)).join();
        assertEquals(1, answer.step());
        assertEquals(1, answer.result().getSequence());
    }

    @Test
    void aNamedWorkerContinues() {
        String name = session(client, sgd(1), 0).name();
        for (int start = 1; start <= 3; start++) {
            try (TrainingSession handle = client.openSession(name, "trainer")) {
                assertEquals(start, handle.step(step(1)).result().getSequence());
            }
        }
    }

    @Test
    void pushAndPull() {
        TrainingSession session = session(client, sgd(1), 0, 0);
        PushHeader options =
                PushHeader.newBuilder().setResetState(true).setExpectedStep(0).build();
        session.push(options, Map.of("w", NdArray.of(new double[] {1, 2})));
        float[] w = new float[2];
        Parameters found = session.pull(PullParametersRequest.getDefaultInstance(), Map.of("w", NdArray.of(w)));
        assertArrayEquals(new float[] {1, 2}, w);
        assertEquals(0, found.step());
        PullParametersRequest newer =
                PullParametersRequest.newBuilder().setIfNewerThanStep(0).build();
        assertTrue(session.pull(newer, Map.of()).arrays().isEmpty());
        PushHeader wrong = PushHeader.newBuilder().setExpectedStep(7).build();
        assertReason("STEP_MISMATCH", () -> session.push(wrong, Map.of("w", NdArray.of(w))));
    }

    @Test
    void pullWaitsForALaterStep() {
        TrainingSession session = session(client, sgd(1), 0);
        PullParametersRequest later =
                PullParametersRequest.newBuilder().setNewerThanStep(0).build();
        var waiting = CompletableFuture.supplyAsync(() -> session.pull(later, Map.of()));
        session.step(step(1));
        assertEquals(1, waiting.join().step());
    }

    @Test
    void requestIdMakesAChangeIdempotent() {
        SessionSpec spec = sgd(1).toBuilder()
                .setReduceOnPlateau(ReduceOnPlateauSpec.newBuilder().setPatience(5))
                .build();
        TrainingSession session = session(client, spec, 0);
        ReportMetricsRequest.Builder report = ReportMetricsRequest.newBuilder().setRequestId("evaluation 1");
        report.addMetricsBuilder().setName("val_loss").setValue(1);
        var method = SessionServiceGrpc.getReportMetricsMethod();
        for (int i = 0; i < 3; i++) session.call(method, report.build());
        assertEquals(
                1,
                session.call(method, report.clearRequestId().build())
                        .getReduceOnPlateau()
                        .getWaited());
    }

    @Test
    void updateSaysWhichStateIsDropped() {
        TrainingSession session = session(client, adam(), 0);
        session.step(step(1));
        UpdateSessionRequest update = UpdateSessionRequest.newBuilder()
                .setSpec(sgd(0.5))
                .setExpectedStep(1)
                .build();
        assertEquals(
                2,
                session.call(SessionServiceGrpc.getUpdateSessionMethod(), update)
                        .getTransfers(0)
                        .getDroppedCount());
        assertEquals(0.5, describe(session).getSpec().getOptimizer().getSgd().getLearningRate());
    }

    private static float value(TrainingSession session) {
        return session.step(step(1).pull()).parameters().floats("w")[0];
    }

    @Test
    void snapshots(@TempDir Path folder) throws IOException {
        TrainingSession session = session(client, sgd(1), 0);
        value(session);
        Snapshot snapshot = session.call(
                        SessionServiceGrpc.getCreateSnapshotMethod(), CreateSnapshotRequest.getDefaultInstance())
                .getSnapshot();
        value(session);
        value(session);
        var all = session.call(SessionServiceGrpc.getListSnapshotsMethod(), ListSnapshotsRequest.getDefaultInstance());
        assertTrue(all.getSnapshotsList().stream().anyMatch(s -> s.getName().equals(snapshot.getName())));
        ForkSessionRequest ofSnapshot =
                ForkSessionRequest.newBuilder().setName(snapshot.getName()).build();
        assertEquals(-2, value(session.fork(ofSnapshot)));
        var restoring = SessionServiceGrpc.getRestoreSnapshotMethod();
        RestoreSnapshotRequest restore = RestoreSnapshotRequest.newBuilder()
                .setName(snapshot.getName())
                .setExpectedStep(3)
                .build();
        assertEquals(1, session.call(restoring, restore).getSession().getStep());
        assertEquals(-2, value(session));
        Path file = folder.resolve("session.safetensors");
        assertEquals(2, client.exportSnapshot(session.name(), file));
        TrainingSession imported = client.importSession(file, "");
        assertEquals(-3, value(imported));
        assertEquals(1, client.exportSnapshot(snapshot.getName(), file));
        assertEquals(-3, value(session.fork(ForkSessionRequest.getDefaultInstance())));
        DeleteSnapshotRequest delete =
                DeleteSnapshotRequest.newBuilder().setName(snapshot.getName()).build();
        session.call(SessionServiceGrpc.getDeleteSnapshotMethod(), delete);
        RestoreSnapshotRequest missing =
                restore.toBuilder().setName(session.name() + "/snapshots/77").build();
        assertReason("SNAPSHOT_NOT_FOUND", () -> session.call(restoring, missing));
    }

    @Test
    void watchReadsEventsUntilTheSessionIsDeleted() {
        TrainingSession session = session(client, sgd(1), 0);
        List<WatchSessionResponse.EventCase> seen = new ArrayList<>();
        session.watch(event -> {
            seen.add(event.getEventCase());
            if (event.hasBegan()) session.step(step(1));
            if (event.hasStep()) session.delete();
            return true;
        });
        assertEquals(
                List.of(
                        WatchSessionResponse.EventCase.BEGAN,
                        WatchSessionResponse.EventCase.STEP,
                        WatchSessionResponse.EventCase.DELETED),
                seen);
        assertReason("SESSION_NOT_FOUND", () -> session.watch(event -> true));
    }

    @Test
    void sessionsAndCapabilities() {
        TrainingSession made = session(client, sgd(1), 0);
        var listing = SessionServiceGrpc.getListSessionsMethod();
        var sessions = client.call(
                listing, ListSessionsRequest.newBuilder().setPageSize(1000).build());
        assertTrue(sessions.getSessionsList().stream().map(Session::getName).anyMatch(made.name()::equals));
        assertEquals("optserve.v1", capabilities(client).getApiVersion());
        TensorLayout w = made.layout().get(0);
        assertEquals("w", w.getName());
        assertEquals(4, w.getByteCount());
    }

    @Test
    void initializersRunOnTheServer() {
        InitializerSpec zeros = InitializerSpec.newBuilder()
                .setZeros(ZerosSpec.getDefaultInstance())
                .build();
        CreateSessionRequest request = CreateSessionRequest.newBuilder()
                .setSpec(sgd(1))
                .addParameters(Client.initialized("b", zeros, 2, 3))
                .build();
        TrainingSession session = client.createSession(request, Map.of("w", NdArray.of(new float[] {1})), "worker");
        assertArrayEquals(new long[] {2, 3}, session.pull().arrays().get("b").shape());
        assertEquals("worker", session.worker());
    }

    @Test
    void functions() {
        ScheduleSpec schedule = ScheduleSpec.newBuilder()
                .setConstant(ConstantScheduleSpec.newBuilder().setValue(0.5))
                .build();
        EvaluateScheduleRequest request = EvaluateScheduleRequest.newBuilder()
                .setSchedule(schedule)
                .setSteps(StepList.newBuilder().addSteps(3).addSteps(1))
                .build();
        var rates = client.call(FunctionServiceGrpc.getEvaluateScheduleMethod(), request);
        assertArrayEquals(new double[] {0.5, 0.5}, NdArray.of(rates.getValues()).doubles());
        ActivationSpec prelu = ActivationSpec.newBuilder()
                .setPrelu(PreluSpec.getDefaultInstance())
                .build();
        NdArray x = NdArray.of(new float[] {-1, 2, 3, -4}, 2, 2);
        NdArray slope = NdArray.of(new float[] {0.5f}, 1);
        var output = client.call(
                FunctionServiceGrpc.getComputeActivationMethod(),
                ComputeActivationRequest.newBuilder()
                        .setActivation(prelu)
                        .setInput(x.toTensor())
                        .setSlope(slope.toTensor())
                        .build());
        NdArray y = NdArray.of(output.getOutput());
        assertArrayEquals(new float[] {-0.5f, 2, 3, -2}, y.floats());
        assertArrayEquals(new long[] {2, 2}, y.shape());
        var gradient = client.call(
                FunctionServiceGrpc.getComputeActivationGradientMethod(),
                ComputeActivationGradientRequest.newBuilder()
                        .setActivation(prelu)
                        .setInput(x.toTensor())
                        .setOutputGradient(x.toTensor())
                        .setSlope(slope.toTensor())
                        .build());
        assertArrayEquals(
                new float[] {17}, NdArray.of(gradient.getSlopeGradient()).floats());
        LossSpec squares = LossSpec.newBuilder()
                .setMeanSquaredError(MeanSquaredErrorSpec.getDefaultInstance())
                .build();
        var loss = client.call(
                FunctionServiceGrpc.getComputeLossMethod(),
                ComputeLossRequest.newBuilder()
                        .setLoss(squares)
                        .setPrediction(x.toTensor())
                        .setTarget(y.toTensor())
                        .build());
        assertEquals((0.25 + 4) / 4, loss.getValue());
    }

    @Test
    void membersOfASyncSession() {
        CoordinationSpec sync = CoordinationSpec.newBuilder()
                .setSync(CoordinationSync.getDefaultInstance())
                .build();
        TrainingSession first =
                session(client, sgd(1).toBuilder().setCoordination(sync).build(), 0);
        assertReason("NOT_A_MEMBER", () -> first.step(step(1)));
        JoinSessionResponse joined = first.join(Duration.ofSeconds(20));
        TrainingSession second = client.openSession(first.name(), "second");
        assertEquals(1, second.join(null).getRank());
        assertEquals(0, joined.getRank());
        assertEquals(20, joined.getLeaseSeconds());
        var other = CompletableFuture.supplyAsync(() -> second.step(step(3).pull()));
        StepAnswer answer = first.step(step(1).pull());
        assertEquals(-2, answer.parameters().floats("w")[0]);
        assertEquals(2, answer.result().getContributions());
        assertEquals(1, other.join().step());
        assertEquals(
                1,
                second.call(WorkerServiceGrpc.getRenewLeaseMethod(), RenewLeaseRequest.getDefaultInstance())
                        .getStep());

        TrainingSession successor = client.openSession(first.name(), "second"); // as after a restart
        successor.join(null);
        OptserveException fenced = assertReason("FENCED", () -> second.step(step(1)));
        assertEquals(Status.Code.FAILED_PRECONDITION, fenced.code());
        first.leave();
        StepAnswer alone = successor.step(step(1).pull());
        assertEquals(2, alone.step());
        assertEquals(2, alone.result().getSequence());
        var workers = first.call(WorkerServiceGrpc.getListWorkersMethod(), ListWorkersRequest.getDefaultInstance());
        assertEquals(
                List.of(WorkerState.WORKER_STATE_ACTIVE, WorkerState.WORKER_STATE_LEFT),
                workers.getWorkersList().stream()
                        .map(worker -> worker.getState())
                        .sorted()
                        .toList());
    }
}
