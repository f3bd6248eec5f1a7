package dev.optserve.conformance;

import com.google.protobuf.ByteString;
import com.google.protobuf.UnsafeByteOperations;
import dev.optserve.Client;
import dev.optserve.NdArray;
import dev.optserve.OptserveException;
import dev.optserve.Parameters;
import dev.optserve.Step;
import dev.optserve.StepAnswer;
import dev.optserve.StepStream;
import dev.optserve.TrainingSession;
import dev.optserve.conformance.v1.*;
import dev.optserve.v1.*;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.stub.BlockingClientCall;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;

/** The Java client's driver of the conformance corpus; see proto/optserve/conformance/v1/driver.proto. */
public final class Driver {
    private final Client client;
    private final Map<List<Object>, Timing> timings = new HashMap<>();
    private Client transcriptClient;
    private TrainingSession session;

    private Driver(Client client) {
        this.client = client;
    }

    /** Answers the requests on standard input until it ends; the last argument is the server's address. */
    public static void main(String[] arguments) throws IOException {
        var input = new DataInputStream(new FileInputStream(FileDescriptor.in));
        var output = new DataOutputStream(new FileOutputStream(FileDescriptor.out));
        try (Client client = Client.connect(arguments[arguments.length - 1])) {
            Driver driver = new Driver(client);
            while (true) {
                byte[] request;
                try {
                    request = new byte[input.readInt()];
                } catch (EOFException end) {
                    return;
                }
                input.readFully(request);
                byte[] response =
                        driver.answer(DriverRequest.parseFrom(request)).toByteArray();
                byte[] message = new byte[Integer.BYTES + response.length];
                java.nio.ByteBuffer.wrap(message).putInt(response.length).put(response);
                output.write(message);
            }
        }
    }

    /** Returns what came of a request, errors included. */
    private DriverResponse answer(DriverRequest request) {
        DriverResponse.Builder response = DriverResponse.newBuilder();
        try {
            switch (request.getCallCase()) {
                case TRAIN -> response.setTrain(train(request.getTrain()));
                case SCHEDULE -> response.setSchedule(schedule(request.getSchedule()));
                case LOSS -> response.setLoss(loss(request.getLoss()));
                case ACTIVATION -> response.setActivation(activation(request.getActivation()));
                case COMPLEXITY -> response.setComplexity(complexity(request.getComplexity()));
                case METRICS -> response.setMetrics(metrics(request.getMetrics()));
                case CONNECT -> response.setConnect(connect(request.getConnect()));
                case OPEN -> response.setOpen(open(request.getOpen()));
                case JOIN -> response.setJoin(join(request.getJoin()));
                case STEPS -> response.setSteps(steps(request.getSteps()));
                case READ -> response.setRead(read(request.getRead()));
                case LEAVE -> {
                    session.leave();
                    response.setLeave(LeaveAnswer.getDefaultInstance());
                }
                case TIME -> {
                    TimeCall call = request.getTime();
                    if (call.getWay() == Way.WAY_DATA_CONNECTION) response.setUnsupported("no data connections");
                    else response.setTime(time(call));
                }
                default -> response.setUnsupported("a call that is newer than this driver");
            }
        } catch (OptserveException error) {
            boolean isOfTranscript = request.getCallCase().getNumber() >= DriverRequest.CONNECT_FIELD_NUMBER
                    && request.getCallCase() != DriverRequest.CallCase.TIME;
            if (isOfTranscript || error.reason() != ErrorReason.ERROR_REASON_UNSPECIFIED) {
                response.setRefusal(refusal(error));
            } else {
                response.setFailure(error.toString());
            }
        } catch (Exception error) {
            response.setFailure(error.toString());
        }
        return response.build();
    }

    private static Refusal refusal(OptserveException error) {
        return Refusal.newBuilder()
                .setReason(error.reason())
                .setField(error.field())
                .setCode(error.code().value())
                .setNotApplied(error.applied() == OptserveException.Applied.NO)
                .build();
    }

    private TrainAnswer train(TrainCall call) throws Exception {
        CreateSessionRequest request = CreateSessionRequest.newBuilder()
                .setSpec(call.getSpec())
                .addAllParameters(call.getParametersList())
                .setSeed(call.getSeed())
                .build();
        TrainingSession session =
                client.createSession(request, Map.of(), UUID.randomUUID().toString());
        try (StepStream stream = session.stream(8)) {
            TrainAnswer.Builder answer = TrainAnswer.newBuilder().setInitial(tensors(session.pull()));
            List<CompletableFuture<StepAnswer>> inFlight = new ArrayList<>();
            boolean isPipelined = call.getStream() && call.getBeforeValue() == 0 && call.getAfterValue() == 0;
            for (int i = 0; i < call.getGradientsCount(); i++) {
                if (call.getBeforeValue() != 0) answer.addBefore(pull(session, call.getBefore()));
                Step step = step(call, i);
                if (isPipelined) {
                    inFlight.add(stream.submit(step));
                    continue;
                }
                StepAnswer taken = call.getStream() ? result(stream.submit(step)) : session.step(step);
                answer.addParameters(tensors(taken.parameters()));
                if (call.getAfterValue() != 0) answer.addAfter(pull(session, call.getAfter()));
            }
            for (var taken : inFlight)
                answer.addParameters(tensors(result(taken).parameters()));
            return answer.build();
        } finally {
            session.delete();
        }
    }

    private static StepAnswer result(CompletableFuture<StepAnswer> future) throws Exception {
        try {
            return future.get();
        } catch (ExecutionException failure) {
            throw (Exception) failure.getCause();
        }
    }

    private static Step step(TrainCall call, int i) {
        Step step = step(call.getGradients(i)).pull();
        StepStart.Builder options = StepStart.newBuilder();
        if (call.getOverridesCount() > 0)
            options.addAllOverrides(call.getOverrides(i).getOverridesList());
        if (call.getSparseGradientsCount() > 0) {
            for (SparseRows rows : call.getSparseGradients(i).getTensorsList()) {
                step.rows(rows.getName(), NdArray.of(rows.getIndices()), NdArray.of(rows.getValues()));
            }
        }
        return step.options(options.build());
    }

    private static Step step(Tensors gradients) {
        Step step = new Step();
        gradients.getTensorsList().forEach(each -> step.gradient(each.getName(), NdArray.of(each.getTensor())));
        return step;
    }

    private static Tensors pull(TrainingSession session, ParameterPoint point) {
        PullOptions options = PullOptions.newBuilder().setPoint(point).build();
        return tensors(
                session.pull(PullParametersRequest.newBuilder().setPull(options).build(), Map.of()));
    }

    private static Tensors tensors(Parameters parameters) {
        Tensors.Builder tensors = Tensors.newBuilder();
        parameters
                .arrays()
                .forEach((name, array) -> tensors.addTensors(
                        NamedTensor.newBuilder().setName(name).setTensor(array.toTensor())));
        return tensors.build();
    }

    private ScheduleAnswer schedule(ScheduleCall call) {
        EvaluateScheduleRequest request = EvaluateScheduleRequest.newBuilder()
                .setSchedule(call.getSchedule())
                .setSteps(StepList.newBuilder().addAllSteps(call.getStepsList()))
                .build();
        EvaluateScheduleResponse found = client.call(FunctionServiceGrpc.getEvaluateScheduleMethod(), request);
        return ScheduleAnswer.newBuilder().setValues(found.getValues()).build();
    }

    private LossAnswer loss(LossCall call) {
        ComputeLossRequest.Builder request = ComputeLossRequest.newBuilder()
                .setLoss(call.getLoss())
                .setPrediction(call.getPrediction())
                .setTarget(call.getTarget())
                .setPerExample(true)
                .setGradient(true);
        if (call.hasSampleWeight()) request.setSampleWeight(call.getSampleWeight());
        ComputeLossResponse found = client.call(FunctionServiceGrpc.getComputeLossMethod(), request.build());
        LossAnswer.Builder answer =
                LossAnswer.newBuilder().setPerExample(found.getPerExample()).setGradient(found.getGradient());
        if (found.hasValue()) answer.setValue(found.getValue());
        return answer.build();
    }

    private ActivationAnswer activation(ActivationCall call) {
        ComputeActivationRequest.Builder request = ComputeActivationRequest.newBuilder()
                .setActivation(call.getActivation())
                .setInput(call.getInput());
        ComputeActivationGradientRequest.Builder gradient = ComputeActivationGradientRequest.newBuilder()
                .setActivation(call.getActivation())
                .setInput(call.getInput())
                .setOutputGradient(call.getOutputGradient());
        if (call.hasSlope()) {
            request.setSlope(call.getSlope());
            gradient.setSlope(call.getSlope());
        }
        Tensor output = client.call(FunctionServiceGrpc.getComputeActivationMethod(), request.build())
                .getOutput();
        ComputeActivationGradientResponse found =
                client.call(FunctionServiceGrpc.getComputeActivationGradientMethod(), gradient.build());
        ActivationAnswer.Builder answer =
                ActivationAnswer.newBuilder().setOutput(output).setInputGradient(found.getInputGradient());
        if (found.hasSlopeGradient()) answer.setSlopeGradient(found.getSlopeGradient());
        return answer.build();
    }

    private ComplexityAnswer complexity(ComplexityCall call) {
        EstimateComplexityRequest request = EstimateComplexityRequest.newBuilder()
                .setNetwork(call.getNetwork())
                .build();
        return ComplexityAnswer.newBuilder()
                .addAllLayers(client.call(FunctionServiceGrpc.getEstimateComplexityMethod(), request)
                        .getLayersList())
                .build();
    }

    private MetricsAnswer metrics(MetricsCall call) {
        NamedTensor parameter = call.getParameter();
        Map<String, NdArray> values = Map.of(parameter.getName(), NdArray.of(parameter.getTensor()));
        Step step = new Step()
                .gradient(
                        call.getGradient().getName(),
                        NdArray.of(call.getGradient().getTensor()));
        TrainingSession session = client.createSession(call.getSpec(), values);
        try {
            MetricsAnswer.Builder answer = MetricsAnswer.newBuilder();
            for (double value : call.getValuesList()) {
                MetricsReport.Builder row = answer.addReportsBuilder();
                if (!call.getReportFirst())
                    row.setLearningRate(session.step(step).result().getLearningRate());
                ReportMetricsRequest request = ReportMetricsRequest.newBuilder()
                        .addMetrics(
                                Metric.newBuilder().setName(call.getMetric()).setValue(value))
                        .build();
                ReportMetricsResponse report = session.call(SessionServiceGrpc.getReportMetricsMethod(), request);
                if (call.getReportFirst() && !report.getStopped()) {
                    row.setLearningRate(session.step(step).result().getLearningRate());
                }
                if (report.hasReduceOnPlateau()) row.setReduceOnPlateau(report.getReduceOnPlateau());
                if (report.hasEarlyStopping()) row.setEarlyStopping(report.getEarlyStopping());
                row.setStopped(report.getStopped());
                if (report.getStopped()) break;
            }
            return answer.setParameter(tensors(session.pull()).getTensors(0)).build();
        } finally {
            session.delete();
        }
    }

    private ConnectAnswer connect(ConnectCall call) throws IOException {
        if (transcriptClient != null) transcriptClient.close();
        session = null;
        transcriptClient =
                Client.builder().target(call.getTarget()).token(call.getToken()).connect();
        return ConnectAnswer.getDefaultInstance();
    }

    private OpenAnswer open(OpenCall call) {
        String worker = call.getWorker().isEmpty() ? UUID.randomUUID().toString() : call.getWorker();
        if (session != null) session.close();
        if (call.getSession().isEmpty()) {
            CreateSessionRequest request = CreateSessionRequest.newBuilder()
                    .setSpec(call.getSpec())
                    .addAllParameters(call.getParametersList())
                    .build();
            session = transcriptClient.createSession(request, Map.of(), worker);
        } else {
            session = transcriptClient.openSession(call.getSession(), worker);
        }
        var get = GetSessionRequest.getDefaultInstance();
        long step = session.call(SessionServiceGrpc.getGetSessionMethod(), get)
                .getSession()
                .getStep();
        return OpenAnswer.newBuilder().setSession(session.name()).setStep(step).build();
    }

    private JoinAnswer join(JoinCall call) {
        JoinSessionResponse joined = session.join(call.hasLeaseSeconds() ? seconds(call.getLeaseSeconds()) : null);
        return JoinAnswer.newBuilder()
                .setEpoch(joined.getEpoch())
                .setRank(joined.getRank())
                .build();
    }

    private static Duration seconds(double seconds) {
        return Duration.ofNanos((long) (seconds * 1e9));
    }

    /** Takes steps; the parameters come with each, because a member states which ones it received last. */
    private StepsAnswer steps(StepsCall call) throws Exception {
        StepsAnswer.Builder answer = StepsAnswer.newBuilder();
        List<CompletableFuture<StepAnswer>> inFlight = new ArrayList<>();
        StepStream stream = session.stream(Math.max(1, call.getWindow()));
        OptserveException failure = null;
        try {
            for (int i = 0; i < call.getGradientsCount(); i++) {
                Step step = step(call.getGradients(i)).pull();
                if (call.hasTimeoutSeconds()) step.timeout(seconds(call.getTimeoutSeconds()));
                if (call.hasExpectedStep()) step.expectedStep(call.getExpectedStep() + i);
                if (call.getWindow() > 0) inFlight.add(stream.submit(step));
                else answer.addOutcomes(outcome(session.step(step)));
            }
        } catch (OptserveException error) {
            failure = error;
        }
        try {
            for (var future : inFlight) answer.addOutcomes(outcome(result(future)));
        } catch (OptserveException error) {
            failure = error; // it is the earlier one
        }
        if (failure != null) answer.setRefusal(refusal(failure));
        return answer.build();
    }

    private static dev.optserve.conformance.v1.StepOutcome outcome(StepAnswer answer) {
        return dev.optserve.conformance.v1.StepOutcome.newBuilder()
                .setStep(answer.step())
                .setSequence(answer.result().getSequence())
                .setReplayed(answer.result().getReplayed())
                .build();
    }

    private ReadAnswer read(ReadCall call) {
        PullParametersRequest.Builder request = PullParametersRequest.newBuilder();
        if (call.hasNewerThan()) request.setNewerThanStep(call.getNewerThan());
        Parameters parameters = session.pull(request.build(), Map.of());
        return ReadAnswer.newBuilder()
                .setParameters(tensors(parameters))
                .setStep(parameters.step())
                .build();
    }

    /** What repeats a step, or an exchange of the same bytes. */
    private interface Timing {
        void repeat() throws Exception;
    }

    private TimeAnswer time(TimeCall call) throws Exception {
        List<Object> key = List.of(call.getElements(), call.getWay(), call.getTarget(), call.getChunkBytes());
        Timing timing = timings.get(key);
        if (timing == null) {
            timing = call.getWay() == Way.WAY_ECHO ? exchanges(call) : steps(call);
            timings.put(key, timing);
            timing.repeat(); // connects, and has the server prepare its kernels
        }
        long begun = System.nanoTime();
        for (int i = 0; i < call.getRepeats(); i++) timing.repeat();
        double seconds = (System.nanoTime() - begun) / 1e9;
        return TimeAnswer.newBuilder()
                .setSeconds(seconds)
                .setPeakBytes(peakBytes())
                .build();
    }

    private static Timing steps(TimeCall call) throws IOException {
        Client client = Client.connect(call.getTarget());
        int elements = Math.toIntExact(call.getElements());
        AdamSpec adam = AdamSpec.newBuilder().setLearningRate(1e-3).build();
        SessionSpec spec = SessionSpec.newBuilder()
                .setOptimizer(OptimizerSpec.newBuilder().setAdam(adam))
                .build();
        float[] gradient = new float[elements];
        java.util.Arrays.fill(gradient, 0.5f);
        float[] w = new float[elements];
        TrainingSession session = client.createSession(spec, Map.of("w", NdArray.of(w)));
        Step step = new Step().gradient("w", gradient).into("w", w);
        if (call.getWay() == Way.WAY_HANDLE) return () -> session.step(step);
        StepStream stream = session.stream(1);
        return () -> result(stream.submit(step));
    }

    /** Exchanges bytes by the generated stub alone. */
    private static Timing exchanges(TimeCall call) throws Exception {
        ManagedChannel channel = Grpc.newChannelBuilder(call.getTarget(), InsecureChannelCredentials.create())
                .maxInboundMessageSize(Integer.MAX_VALUE)
                .build();
        long byteCount = Float.BYTES * call.getElements();
        BlockingClientCall<ExchangeRequest, ExchangeResponse> exchange =
                EchoServiceGrpc.newBlockingV2Stub(channel).exchange();
        exchange.write(ExchangeRequest.newBuilder().setByteCount(byteCount).build());
        List<ByteString> pieces = new ArrayList<>();
        for (long at = 0; at < byteCount; at += call.getChunkBytes()) {
            byte[] piece = new byte[(int) Math.min(call.getChunkBytes(), byteCount - at)];
            pieces.add(UnsafeByteOperations.unsafeWrap(piece));
        }
        return () -> {
            for (ByteString piece : pieces) {
                exchange.write(ExchangeRequest.newBuilder().setData(piece).build());
            }
            for (long received = 0; received < byteCount; ) {
                received += exchange.read().getData().size();
            }
        };
    }

    /** Returns the largest resident set of this process so far. */
    private static long peakBytes() throws IOException {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) return 1024 * Long.parseLong(line.replaceAll("\\D", ""));
        }
        return 0;
    }
}
