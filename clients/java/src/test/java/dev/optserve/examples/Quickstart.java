package dev.optserve.examples;

import dev.optserve.Client;
import dev.optserve.NdArray;
import dev.optserve.Step;
import dev.optserve.StepAnswer;
import dev.optserve.TrainingSession;
import dev.optserve.v1.*;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Trains a classifier of iris flowers on a server: one dense layer, with five optimizers. The program only multiplies
 * matrices; the server computes softmax, loss and their gradients, and takes the steps.
 */
public final class Quickstart {
    private static final List<String> SPECIES = List.of("setosa", "versicolor", "virginica");
    private static final int CLASSES = SPECIES.size();
    private static final int FEATURES = 4;
    private static final int TEST_COUNT = 30;
    private static final int BATCH = 32;
    private static final double RATE = 0.1;
    private static final ActivationSpec SOFTMAX = ActivationSpec.newBuilder()
            .setSoftmax(SoftmaxSpec.getDefaultInstance())
            .build();
    private static final LossSpec LOSS = LossSpec.newBuilder()
            .setMeanSquaredError(MeanSquaredErrorSpec.getDefaultInstance())
            .build();

    // The shuffle of the Python demo, numpy.random.default_rng(0).permutation(150): the numbers of both are the same.
    private static final String ORDER = """
            71 108 54 118 130 52 64 110 119 42 87 72 116 85 5 91 53 16 39 123 106 98 99 97 102 13 129 140 74 134 136 148
            147 1 84 2 132 11 37 122 93 131 23 139 48 38 36 68 20 145 34 10 27 50 124 25 43 144 8 117 44 9 111 92 22 19
            125 90 142 126 88 4 55 75 17 80 3 83 109 15 100 30 66 35 107 81 137 28 82 18 6 67 65 94 24 133 57 21 105 114
            103 47 0 60 70 62 45 86 63 26 51 101 112 49 128 146 41 40 96 135 61 12 79 141 32 56 89 46 58 14 73 138 143
            115 31 104 77 76 7 149 69 113 127 121 78 120 59 29 33 95
            """;

    /** A flower: its features and its class. */
    private record Flower(float[] features, int species) {}

    private final Client client;
    private final TrainingSession session;
    private final float[] weights = new float[FEATURES * CLASSES]; // filled by every step
    private final float[] bias = new float[CLASSES];
    private long steps;

    private Quickstart(Client client, OptimizerSpec optimizer) {
        this.client = client;
        InitializerSpec small = InitializerSpec.newBuilder()
                .setTruncatedNormal(TruncatedNormalSpec.newBuilder().setStddev(0.1))
                .build();
        CreateSessionRequest request = CreateSessionRequest.newBuilder()
                .setSpec(SessionSpec.newBuilder().setOptimizer(optimizer))
                .addParameters(Client.initialized("weights", small, FEATURES, CLASSES))
                .addParameters(Client.initialized("bias", small, CLASSES))
                .build();
        session = client.createSession(request, Map.of(), "quickstart");
        Map<String, NdArray> into = Map.of("weights", NdArray.of(weights), "bias", NdArray.of(bias));
        session.pull(PullParametersRequest.getDefaultInstance(), into);
    }

    /** Trains with each optimizer and prints a table; the arguments are the server's address and the epochs. */
    public static void main(String[] arguments) throws IOException {
        int epochs = arguments.length > 1 ? Integer.parseInt(arguments[1]) : 500;
        List<Flower> flowers = flowers();
        List<Flower> training = flowers.subList(0, flowers.size() - TEST_COUNT);
        List<Flower> testing = flowers.subList(flowers.size() - TEST_COUNT, flowers.size());
        StringBuilder table = new StringBuilder(
                String.format("%-12s%12s%16s%10s%n", "optimizer", "final loss", "test accuracy", "steps/s"));
        try (Client client = Client.connect(arguments.length > 0 ? arguments[0] : System.getenv("OPTSERVE_SERVER"))) {
            for (var optimizer : optimizers().entrySet()) {
                Quickstart model = new Quickstart(client, optimizer.getValue());
                long begun = System.nanoTime();
                double loss = 0;
                for (int epoch = 1; epoch <= epochs; epoch++) {
                    loss = model.train(training);
                    System.err.printf("\r%-10s epoch %d of %d, loss %.4f ", optimizer.getKey(), epoch, epochs, loss);
                }
                System.err.println();
                double speed = model.steps / ((System.nanoTime() - begun) / 1e9);
                double accuracy = 100 * model.accuracy(testing);
                table.append(String.format("%-12s%12.8f%15.1f%%%10.0f%n", optimizer.getKey(), loss, accuracy, speed));
                model.session.delete();
            }
        }
        System.out.print(table);
    }

    private static Map<String, OptimizerSpec> optimizers() {
        OptimizerSpec.Builder lecture = OptimizerSpec.newBuilder().setConvention(Convention.CONVENTION_LECTURE);
        Map<String, OptimizerSpec> found = new LinkedHashMap<>();
        found.put(
                "SGD",
                lecture.setSgd(SgdSpec.newBuilder().setLearningRate(RATE)).build());
        found.put(
                "momentum",
                lecture.setMomentum(MomentumSpec.newBuilder().setLearningRate(RATE))
                        .build());
        found.put(
                "AdaGrad",
                lecture.setAdagrad(AdagradSpec.newBuilder().setLearningRate(RATE))
                        .build());
        found.put(
                "RMSProp",
                lecture.setRmsprop(RmspropSpec.newBuilder().setLearningRate(RATE))
                        .build());
        found.put(
                "Adam",
                lecture.setAdam(AdamSpec.newBuilder().setLearningRate(RATE)).build());
        return found;
    }

    private static List<Flower> flowers() throws IOException {
        try (BufferedReader csv = new BufferedReader(
                new InputStreamReader(Quickstart.class.getResourceAsStream("/iris.csv"), StandardCharsets.UTF_8))) {
            List<String[]> rows =
                    csv.lines().skip(1).map(line -> line.split(",")).toList();
            return Arrays.stream(ORDER.strip().split("\\s+"))
                    .map(index -> flower(rows.get(Integer.parseInt(index))))
                    .toList();
        }
    }

    private static Flower flower(String[] row) {
        float[] features = new float[FEATURES];
        for (int i = 0; i < FEATURES; i++) features[i] = Float.parseFloat(row[i]);
        return new Flower(features, SPECIES.indexOf(row[FEATURES]));
    }

    /** Takes a step with each batch, and returns the mean loss. */
    private double train(List<Flower> flowers) {
        double sum = 0;
        int count = 0;
        for (int start = 0; start < flowers.size(); start += BATCH, count++) {
            sum += step(flowers.subList(start, Math.min(start + BATCH, flowers.size())));
        }
        return sum / count;
    }

    /** Goes backwards through loss, softmax and dense layer, takes a step, and returns the loss. */
    private double step(List<Flower> batch) {
        Tensor z = NdArray.of(logits(batch), batch.size(), CLASSES).toTensor();
        ComputeActivationRequest softmax = ComputeActivationRequest.newBuilder()
                .setActivation(SOFTMAX)
                .setInput(z)
                .build();
        Tensor probabilities = client.call(FunctionServiceGrpc.getComputeActivationMethod(), softmax)
                .getOutput();
        float[] target = new float[batch.size() * CLASSES];
        for (int i = 0; i < batch.size(); i++) target[i * CLASSES + batch.get(i).species] = 1;
        ComputeLossRequest crossEntropy = ComputeLossRequest.newBuilder()
                .setLoss(LOSS)
                .setPrediction(probabilities)
                .setTarget(NdArray.of(target, batch.size(), CLASSES).toTensor())
                .setGradient(true)
                .build();
        ComputeLossResponse loss = client.call(FunctionServiceGrpc.getComputeLossMethod(), crossEntropy);
        ComputeActivationGradientRequest backward = ComputeActivationGradientRequest.newBuilder()
                .setActivation(SOFTMAX)
                .setInput(z)
                .setOutputGradient(loss.getGradient())
                .build();
        Tensor dz = client.call(FunctionServiceGrpc.getComputeActivationGradientMethod(), backward)
                .getInputGradient();
        float[] slopes = NdArray.of(dz).floats();
        float[] ofWeights = new float[weights.length];
        float[] ofBias = new float[CLASSES];
        for (int i = 0; i < slopes.length; i++) {
            float[] features = batch.get(i / CLASSES).features;
            int kind = i % CLASSES;
            ofBias[kind] += slopes[i];
            for (int f = 0; f < FEATURES; f++) {
                ofWeights[f * CLASSES + kind] = Math.fma(features[f], slopes[i], ofWeights[f * CLASSES + kind]);
            }
        }
        StepAnswer answer = session.step(new Step()
                .gradient("weights", ofWeights)
                .gradient("bias", ofBias)
                .into("weights", weights)
                .into("bias", bias));
        steps = answer.step();
        return loss.getValue();
    }

    /** Returns the outputs of the dense layer; products round once, as those of the Python demo do. */
    private float[] logits(List<Flower> flowers) {
        float[] z = new float[flowers.size() * CLASSES];
        for (int i = 0; i < z.length; i++) {
            float[] features = flowers.get(i / CLASSES).features;
            for (int f = 0; f < FEATURES; f++) z[i] = Math.fma(features[f], weights[f * CLASSES + i % CLASSES], z[i]);
            z[i] += bias[i % CLASSES];
        }
        return z;
    }

    private double accuracy(List<Flower> flowers) {
        float[] z = logits(flowers);
        int correct = 0;
        for (int i = 0; i < flowers.size(); i++) {
            int best = 0;
            for (int kind = 1; kind < CLASSES; kind++) {
                if (z[i * CLASSES + kind] > z[i * CLASSES + best]) best = kind;
            }
            if (best == flowers.get(i).species) correct++;
        }
        return (double) correct / flowers.size();
    }
}
