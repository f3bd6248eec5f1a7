package dev.optserve;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;

/** Streams 100 MB each way in a Java machine that has memory for the caller's arrays, and for no copy of one. */
class MemoryTest {
    private static final int ELEMENTS = 25_000_000;
    private static final List<String> LIMITS =
            List.of("-Xmx256m", "-XX:MaxDirectMemorySize=24m", "-XX:+UseSerialGC", "-Xmn32m");

    @Test
    void noCopyOfAGradientOrOfParameters() throws Exception {
        List<String> command = new java.util.ArrayList<>(
                List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString()));
        command.addAll(LIMITS);
        command.addAll(List.of("-cp", System.getProperty("java.class.path"), Steps.class.getName()));
        command.add(TestServer.shared().address());
        assertEquals(0, new ProcessBuilder(command).inheritIO().start().waitFor());
    }

    /** The program that runs with little memory. */
    static final class Steps {
        private Steps() {}

        public static void main(String[] arguments) throws Exception {
            float[] gradient = new float[ELEMENTS];
            float[] w = new float[ELEMENTS];
            try (Client client = Client.connect(arguments[0])) {
                TrainingSession session = Fixtures.session(client, Fixtures.sgd(1), w);
                for (int i = 1; i <= 3; i++) {
                    java.util.Arrays.fill(gradient, i);
                    session.step(Fixtures.step(gradient).into("w", w));
                }
                session.pull(
                        dev.optserve.v1.PullParametersRequest.getDefaultInstance(),
                        java.util.Map.of("w", NdArray.of(w)));
                session.delete();
            }
            if (w[0] != -6 || w[ELEMENTS - 1] != -6) throw new AssertionError("w is " + w[0]);
        }
    }
}
