package dev.optserve.examples;

import dev.optserve.Client;
import dev.optserve.NdArray;
import dev.optserve.OptserveException;
import dev.optserve.Step;
import dev.optserve.StepAnswer;
import dev.optserve.TrainingSession;
import dev.optserve.v1.*;
import java.io.IOException;
import java.time.Duration;
import java.util.Map;

/**
 * One of two workers that fit a line to four points, of which each has two. Every step waits for the gradients of both,
 * and the server applies their mean.
 */
public final class SyncWorker {
    private static final int STEPS = 300;
    private static final float[][] X = {{0, 1}, {2, 3}}; // of each worker
    private static final float[][] Y = {{1, 3}, {5, 7}};

    private SyncWorker() {}

    /** Trains; the arguments are the server's address, the session's id, and 0 or 1 for the worker. */
    public static void main(String[] arguments) throws IOException {
        int number = Integer.parseInt(arguments[2]);
        float[] line = new float[2]; // slope and intercept, which every answer fills
        try (Client client = Client.connect(arguments[0]);
                TrainingSession session = open(client, arguments[1], "worker-" + number)) {
            session.join(Duration.ofSeconds(30));
            Map<String, NdArray> into = Map.of("line", NdArray.of(line));
            long at = session.pull(PullParametersRequest.getDefaultInstance(), into)
                    .step();
            while (at < STEPS) {
                float[] gradient = gradient(line, X[number], Y[number]);
                StepAnswer answer =
                        session.step(new Step().gradient("line", gradient).into("line", line));
                at = answer.parameters().step();
            }
            session.leave();
        }
        System.out.printf("worker %d, step %d: y = %.2f x + %.2f%n", number, STEPS, line[0], line[1]);
    }

    /** Creates the session, or opens it if the other worker was first. */
    private static TrainingSession open(Client client, String id, String worker) {
        CoordinationSync both = CoordinationSync.newBuilder().setMinReplicas(2).build();
        SessionSpec spec = SessionSpec.newBuilder()
                .setOptimizer(
                        OptimizerSpec.newBuilder().setAdam(AdamSpec.newBuilder().setLearningRate(0.1)))
                .setCoordination(CoordinationSpec.newBuilder().setSync(both))
                .build();
        CreateSessionRequest request =
                CreateSessionRequest.newBuilder().setSessionId(id).setSpec(spec).build();
        try {
            return client.createSession(request, Map.of("line", NdArray.of(new float[2])), worker);
        } catch (OptserveException error) {
            if (error.reason() != ErrorReason.ERROR_REASON_SESSION_EXISTS) throw error;
            return client.openSession("sessions/" + id, worker);
        }
    }

    /** Returns the gradient of half the mean squared error. */
    private static float[] gradient(float[] line, float[] x, float[] y) {
        float[] gradient = new float[2];
        for (int i = 0; i < x.length; i++) {
            float residual = line[0] * x[i] + line[1] - y[i];
            gradient[0] += residual * x[i] / x.length;
            gradient[1] += residual / x.length;
        }
        return gradient;
    }
}
