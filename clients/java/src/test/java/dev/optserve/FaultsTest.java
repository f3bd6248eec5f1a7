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
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.optserve.OptserveException.Applied;
import dev.optserve.v1.*;
import io.grpc.Context;
import io.grpc.Status;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@Timeout(240)
class FaultsTest {
    private static final int ELEMENTS = 3000;

    @TempDir
    Path folder;

    @Test
    void errorsByReason() throws IOException {
        try (Client client = Fixtures.connect()) {
            OptserveException missing = assertReason("SESSION_NOT_FOUND", () -> client.openSession("sessions/missing"));
            assertEquals(Status.Code.NOT_FOUND, missing.code());
            assertEquals("sessions/missing", missing.metadata().get("name"));
            assertFalse(missing.requestId().isEmpty());
            OptserveException rate = assertReason("OUT_OF_RANGE", () -> session(client, sgd(-1), 1));
            assertEquals("spec.optimizer.sgd.learning_rate", rate.field());

            TrainingSession session = session(client, sgd(1), 1, 2);
            OptserveException mismatch =
                    assertReason("STEP_MISMATCH", () -> session.step(step(1, 1).expectedStep(5)));
            assertEquals("0", mismatch.metadata().get("current"));
            assertReason("SHAPE_MISMATCH", () -> session.step(step(1)));
            assertReason("SHAPE_MISMATCH", () -> session.step(step(1, 1).into("w", new float[1])));
            assertReason("UNKNOWN_TENSOR", () -> session.step(new Step().gradient("b", new float[2])));
            NdArray whole = NdArray.of(new int[] {1, 2});
            assertReason("DTYPE_MISMATCH", () -> session.step(new Step().gradient("w", whole)));
            assertReason("FIELD_REQUIRED", () -> session.step(new Step()));
            NdArray two = NdArray.of(new float[2]);
            assertReason("SHAPE_MISMATCH", () -> session.step(new Step().rows("w", NdArray.of(new int[1]), two)));
            assertEquals(1, session.step(step(1, 1)).result().getSequence());
        }
    }

    @Test
    void aSessionThatIsDeletedBetweenSteps() throws IOException {
        try (Client client = Fixtures.connect()) {
            TrainingSession session = session(client, sgd(1), 1);
            session.step(step(1));
            client.openSession(session.name()).delete();
            assertReason("SESSION_NOT_FOUND", () -> session.step(step(1)));
        }
    }

    @Test
    void anUnreachableServer() throws IOException {
        String address;
        try (ServerSocket free = new ServerSocket(0)) {
            address = "127.0.0.1:" + free.getLocalPort();
        }
        try (Client client =
                Client.builder().target(address).timeout(Duration.ofSeconds(1)).connect()) {
            long begun = System.nanoTime();
            OptserveException error = assertThrows(OptserveException.class, () -> capabilities(client));
            assertEquals(Status.Code.UNAVAILABLE, error.code());
            assertEquals(Applied.UNKNOWN, error.applied());
            assertTrue(System.nanoTime() - begun < TimeUnit.SECONDS.toNanos(20));
        }
        assertThrows(IllegalStateException.class, () -> Client.connect(""));
    }

    @Test
    void tokens() throws Exception {
        Path file = folder.resolve("tokens.toml");
        String printed = run(
                TestServer.python(),
                "-m",
                "optserve_server",
                "token",
                "--tokens-file",
                file.toString(),
                "--namespace",
                "alice",
                "--name",
                "test");
        String token = List.of(printed.split("\\s+")).stream()
                .filter(word -> word.length() > 20)
                .findFirst()
                .orElseThrow();
        try (TestServer server = TestServer.start(folder, "--tokens-file=" + file);
                Client wrong =
                        Client.builder().target(server.address()).token("wrong").connect();
                Client right =
                        Client.builder().target(server.address()).token(token).connect()) {
            OptserveException error = assertReason("UNAUTHENTICATED", () -> wrong.openSession("sessions/x"));
            assertEquals(Status.Code.UNAUTHENTICATED, error.code());
            assertEquals(1, session(right, sgd(1), 0).step(step(1)).step());
        }
    }

    private static String run(String... command) throws Exception {
        Process process = new ProcessBuilder(command)
                .redirectError(ProcessBuilder.Redirect.INHERIT)
                .start();
        String printed = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertEquals(0, process.waitFor());
        return printed;
    }

    @Test
    void tlsAndMutualTls() throws Exception {
        String program = """
                import sys
                from pathlib import Path
                sys.path.insert(0, "../..")
                from tests.support.certificates import Authority
                authority, folder = Authority(), Path(sys.argv[1])
                (folder / "ca.pem").write_bytes(authority.pem)
                authority.pair().write(folder, "pair")
                """;
        run(TestServer.python(), "-c", program, folder.toString());
        File authority = folder.resolve("ca.pem").toFile();
        File certificate = folder.resolve("pair.pem").toFile();
        File key = folder.resolve("pair.key").toFile();
        String[] tls = {"--tls-certificate=" + certificate, "--tls-key=" + key};
        try (TestServer server = TestServer.start(folder, tls)) {
            ProcessBuilder probe = new ProcessBuilder(
                    Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                    "-cp",
                    System.getProperty("java.class.path"),
                    EnvironmentProbe.class.getName());
            probe.environment().put("OPTSERVE_SERVER", server.address());
            probe.environment().put("OPTSERVE_CA", authority.toString());
            assertEquals(0, probe.inheritIO().start().waitFor());
        }
        TlsChannelCredentials.Builder trust = TlsChannelCredentials.newBuilder().trustManager(authority);
        try (TestServer server = TestServer.start(folder, tls[0], tls[1], "--tls-client-ca=" + authority);
                Client without = Client.builder()
                        .target(server.address())
                        .credentials(trust.build())
                        .timeout(Duration.ofSeconds(2))
                        .connect();
                Client with = Client.builder()
                        .target(server.address())
                        .credentials(trust.keyManager(certificate, key).build())
                        .connect()) {
            assertEquals(1, session(with, sgd(1), 0).step(step(1)).step());
            OptserveException error = assertThrows(OptserveException.class, () -> capabilities(without));
            assertEquals(Status.Code.UNAVAILABLE, error.code());
        }
    }

    /** A program whose environment has the server and the authority. */
    static final class EnvironmentProbe {
        private EnvironmentProbe() {}

        public static void main(String[] arguments) throws IOException {
            try (Client client = Client.builder().connect()) {
                capabilities(client);
            }
        }
    }

    /** Gives up a step whose answer is late, and settles it. */
    @ParameterizedTest
    @ValueSource(floats = {1, 2})
    void aDeadlineInTheMiddleOfAStep(float second) throws Exception {
        try (Proxy proxy = new Proxy(TestServer.shared().address());
                Client client = Client.connect(proxy.address());
                Client direct = Fixtures.connect()) {
            TrainingSession session = session(client, sgd(1), 0);
            session.step(step(1));
            proxy.stall();
            Step late = step(1).timeout(Duration.ofMillis(300));
            OptserveException error = assertThrows(OptserveException.class, () -> session.step(late));
            assertEquals(Status.Code.DEADLINE_EXCEEDED, error.code());
            assertEquals(Applied.UNKNOWN, error.applied());
            TrainingSession observer = direct.openSession(session.name());
            while (describe(observer).getStep() < 2) Thread.sleep(10);
            proxy.flow();
            StepAnswer answer = session.step(step(second).pull());
            boolean isRepeat = second == 1; // another content proves that the step was applied
            assertEquals(isRepeat, answer.result().getReplayed());
            assertEquals(isRepeat ? -2 : -4, answer.parameters().floats("w")[0]);
        }
    }

    @Test
    void cancellation() throws Exception {
        try (Proxy proxy = new Proxy(TestServer.shared().address());
                Client client = Client.connect(proxy.address())) {
            TrainingSession session = session(client, sgd(1), 0);
            session.step(step(1));
            proxy.stall();
            Thread.currentThread().interrupt();
            OptserveException interrupted = assertThrows(OptserveException.class, () -> session.step(step(1)));
            assertTrue(Thread.interrupted());
            assertEquals(Status.Code.CANCELLED, interrupted.code());
            StepStream stream = session.stream(2);
            CompletableFuture<StepAnswer> first = stream.submit(step(1));
            CompletableFuture<StepAnswer> second = stream.submit(step(1));
            Step third = step(1).timeout(Duration.ofMillis(100));
            OptserveException full = assertThrows(OptserveException.class, () -> stream.submit(third));
            assertEquals(Applied.NO, full.applied());
            second.cancel(true);
            ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();
            Context.current()
                    .withDeadlineAfter(100, TimeUnit.MILLISECONDS, timer)
                    .run(() -> {
                        OptserveException late = assertThrows(OptserveException.class, () -> describe(session));
                        assertEquals(Status.Code.DEADLINE_EXCEEDED, late.code());
                    });
            timer.shutdown();
            proxy.flow();
            assertEquals(2, first.join().step());
            assertThrows(CancellationException.class, second::join);
        }
    }

    /** Cuts connections at many places of a stream; the bits are those of a stream without faults. */
    @Test
    void cutConnections() throws Exception {
        float[] wanted;
        try (Client client = Fixtures.connect()) {
            wanted = train(client, 1000, step -> {});
        }
        try (Proxy proxy = new Proxy(TestServer.shared().address());
                Client client = Client.connect(proxy.address())) {
            float[] found = train(client, 1000, step -> {
                if (step % 40 == 0) proxy.cut(400 + 7919L * step % 200_000); // within one of the next gradients
            });
            assertArrayEquals(wanted, found);
        }
    }

    /** Kills the server at a failpoint of a step, and starts another on its journal. */
    @ParameterizedTest
    @ValueSource(strings = {"before-journal-write", "after-journal-fsync", "after-apply", "before-ack", "after-ack"})
    void aKilledServer(String failpoint) throws Exception {
        float[] wanted;
        try (Client client = Fixtures.connect()) {
            wanted = train(client, 12, step -> {});
        }
        String data = "--data-dir=" + folder.resolve("data");
        try (TestServer first = TestServer.start(folder, data, "OPTSERVE_FAILPOINT=" + failpoint + ":7");
                Proxy proxy = new Proxy(first.address());
                Client client = Client.connect(proxy.address())) {
            CompletableFuture<TestServer> second = CompletableFuture.supplyAsync(() -> {
                try {
                    first.await();
                    TestServer restarted = TestServer.start(folder, data);
                    proxy.route(restarted.address());
                    return restarted;
                } catch (Exception failure) {
                    throw new CompletionException(failure);
                }
            });
            assertArrayEquals(wanted, train(client, 12, step -> {}));
            second.get().close();
        }
    }

    /** gRPC's own pauses between connections grow to minutes. */
    @Test
    void aServerThatIsBack() throws Exception {
        String data = "--data-dir=" + folder.resolve("data");
        try (TestServer first = TestServer.start(folder, data);
                Client client = Client.connect(first.address())) {
            TrainingSession session = session(client, sgd(1), 0);
            session.step(step(1));
            first.kill();
            CompletableFuture<StepAnswer> next = session.stream(1).submit(step(1));
            String port = first.address().substring(first.address().lastIndexOf(':') + 1);
            try (TestServer second = TestServer.start(folder, data, "--port=" + port)) {
                assertEquals(first.address(), second.address());
                assertEquals(2, next.get(3, TimeUnit.SECONDS).step());
            }
        }
    }

    private interface Fault {
        void before(int step) throws Exception;
    }

    /** Takes steps in a session of its own, several in flight, and returns the parameters. */
    private static float[] train(Client client, int steps, Fault fault) throws Exception {
        TrainingSession session = session(client, adam(), new float[ELEMENTS]);
        List<CompletableFuture<StepAnswer>> answers = new ArrayList<>();
        try (StepStream stream = session.stream(3)) {
            for (int i = 0; i < steps; i++) {
                fault.before(i);
                float[] gradient = new float[ELEMENTS];
                for (int j = 0; j < ELEMENTS; j++) gradient[j] = (i * 31 + j * 17) % 101 - 50;
                answers.add(stream.submit(step(gradient).pull()));
            }
        }
        for (int i = 0; i < steps; i++) assertEquals(i + 1, answers.get(i).get().step());
        Parameters found = session.pull();
        assertEquals(steps, found.step());
        return found.floats("w");
    }

    /** Goes on where the server does, after a crash has lost steps. */
    @Test
    void aServerWithoutTheLastSteps() throws Exception {
        String[] settings = {"--data-dir=" + folder.resolve("data"), "--durability=snapshot"};
        try (TestServer first = TestServer.start(folder, settings);
                Proxy proxy = new Proxy(first.address());
                Client client = Client.connect(proxy.address())) {
            TrainingSession session = session(client, sgd(1), 0);
            session.step(step(1));
            session.call(SessionServiceGrpc.getCreateSnapshotMethod(), CreateSnapshotRequest.getDefaultInstance());
            for (int i = 0; i < 3; i++) session.step(step(1));
            first.kill();
            try (TestServer second = TestServer.start(folder, settings)) {
                proxy.route(second.address());
                assertReason("SEQUENCE_GAP", () -> session.step(step(1)));
                StepAnswer answer = session.step(step(1));
                assertEquals(2, answer.step());
                assertEquals(2, answer.result().getSequence());
            }
        }
    }

    /** A program that has restarted continues with its worker's last sequence, and repeats the step that it lost. */
    @Test
    void aRestartedClient() throws Exception {
        String name;
        try (Client client = Fixtures.connect()) {
            TrainingSession session = session(client, sgd(1), 0);
            name = session.name();
            client.openSession(name, "trainer").step(step(1).expectedStep(0));
        }
        try (Client client = Fixtures.connect()) {
            StepAnswer answer = client.openSession(name, "trainer").step(step(1).expectedStep(1));
            assertEquals(2, answer.result().getSequence());
        }
    }

    @Test
    void aClosedClient() throws IOException {
        Client client = Fixtures.connect();
        TrainingSession session = session(client, sgd(1), 0);
        client.close();
        OptserveException error = assertThrows(OptserveException.class, () -> session.step(step(1)));
        assertEquals(Applied.NO, error.applied());
        assertThrows(OptserveException.class, () -> session.push(Map.of("w", NdArray.of(new float[1]))));
    }
}
