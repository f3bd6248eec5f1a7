package dev.optserve;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class ExamplesTest {
    private static final String EPOCHS = "25";
    private static final String DEMO = """
            import sys
            sys.path.insert(0, "../../examples")
            import optserve
            from demo import iris
            with optserve.connect(sys.argv[1]) as client:
                for run in iris.train_all(client, int(sys.argv[2])):
                    print(run.optimizer, run.losses[-1], 100 * run.accuracies[-1])
            """;

    /** The numbers of the quickstart are those of the Python demo. */
    @Test
    void quickstart() throws Exception {
        String address = TestServer.shared().address();
        List<String[]> found = rows(output(start("dev.optserve.examples.Quickstart", address, EPOCHS)));
        List<String[]> wanted = rows(output(new ProcessBuilder(TestServer.python(), "-c", DEMO, address, EPOCHS)
                .redirectError(ProcessBuilder.Redirect.INHERIT)
                .start()));
        assertEquals(6, found.size());
        for (int i = 0; i < 5; i++) {
            String[] expected = wanted.get(i);
            String[] row = found.get(i + 1);
            // RMSProp's first steps amplify rounding, and the order of NumPy's sums depends on the processor.
            boolean isSensitive = expected[0].equals("RMSProp");
            assertEquals(expected[0], row[0]);
            assertEquals(Double.parseDouble(expected[1]), Double.parseDouble(row[1]), isSensitive ? 0.1 : 1e-6);
            double accuracy = Double.parseDouble(row[2].replace("%", ""));
            assertEquals(Double.parseDouble(expected[2]), accuracy, isSensitive ? 50 : 0.06);
        }
    }

    /** Two workers take the steps of one session together. */
    @Test
    void syncWorkers() throws Exception {
        String address = TestServer.shared().address();
        Process first = start("dev.optserve.examples.SyncWorker", address, "line", "0");
        Process second = start("dev.optserve.examples.SyncWorker", address, "line", "1");
        String wanted = "step 300: y = 2.00 x + 1.00";
        assertEquals("worker 0, " + wanted, output(first).strip());
        assertEquals("worker 1, " + wanted, output(second).strip());
        try (Client client = Client.connect(address)) {
            client.openSession("sessions/line").delete();
        }
    }

    private static Process start(String program, String... arguments) throws Exception {
        String java = Path.of(System.getProperty("java.home"), "bin", "java").toString();
        List<String> command = new ArrayList<>(List.of(java, "-cp", System.getProperty("java.class.path"), program));
        command.addAll(List.of(arguments));
        return new ProcessBuilder(command)
                .redirectError(ProcessBuilder.Redirect.INHERIT)
                .start();
    }

    private static String output(Process process) throws Exception {
        String printed = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertEquals(0, process.waitFor(), printed);
        return printed;
    }

    private static List<String[]> rows(String table) {
        return table.strip().lines().map(line -> line.split("\\s+")).toList();
    }
}
