package dev.optserve;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** A real server in a process of its own, on a free loopback port. */
public final class TestServer implements AutoCloseable {
    private static final long READY_SECONDS = 120;
    private static TestServer shared;

    private final Process process;
    private final String address;

    private TestServer(Process process, String address) {
        this.process = process;
        this.address = address;
    }

    /** Starts a server with flags or, in capitals, environment variables. */
    public static TestServer start(Path folder, String... settings) throws Exception {
        Path portFile = Files.createTempFile(folder, "port", "");
        Files.delete(portFile);
        List<String> command = new ArrayList<>(List.of(python(), "-m", "optserve_server", "--port=0"));
        command.addAll(List.of("--port-file=" + portFile, "--metrics-port=off", "--data-port=off", "--backend=numpy"));
        Arrays.stream(settings).filter(setting -> setting.startsWith("--")).forEach(command::add);
        Path log = Files.createTempFile(folder, "log", "");
        ProcessBuilder builder =
                new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log.toFile());
        builder.environment().keySet().removeIf(name -> name.startsWith("OPTSERVE_"));
        for (String setting : settings) {
            String[] parts = setting.split("=", 2);
            if (!setting.startsWith("--")) builder.environment().put(parts[0], parts[1]);
        }
        Process process = builder.start();
        Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly));
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(READY_SECONDS);
        while (!Files.exists(portFile) || Files.size(portFile) == 0) {
            if (!process.isAlive() || System.nanoTime() > deadline) {
                process.destroyForcibly();
                throw new IllegalStateException("the server did not start: " + Files.readString(log));
            }
            Thread.sleep(10);
        }
        return new TestServer(process, "127.0.0.1:" + Files.readString(portFile).strip());
    }

    /** Returns the server that all tests use; it has a data directory. */
    public static synchronized TestServer shared() {
        try {
            if (shared == null) {
                Path folder = Files.createTempDirectory("optserve-java");
                shared = start(folder, "--data-dir=" + folder.resolve("data"));
            }
            return shared;
        } catch (IOException failure) {
            throw new UncheckedIOException(failure);
        } catch (Exception failure) {
            throw new IllegalStateException(failure);
        }
    }

    /** Returns the interpreter that has the server: OPTSERVE_PYTHON, or the repository's own. */
    public static String python() {
        String stated = System.getenv("OPTSERVE_PYTHON");
        return stated != null
                ? stated
                : Path.of("../../.venv/bin/python").toAbsolutePath().toString();
    }

    public String address() {
        return address;
    }

    /** Waits for the end of the process, as after a failpoint. */
    void await() throws InterruptedException {
        if (!process.waitFor(1, TimeUnit.MINUTES)) throw new IllegalStateException("the server was not killed");
    }

    @Override
    public void close() {
        kill();
    }

    /** Ends the server as a crash does. */
    void kill() {
        try {
            process.destroyForcibly().waitFor();
        } catch (InterruptedException interrupt) {
            Thread.currentThread().interrupt();
        }
    }
}
