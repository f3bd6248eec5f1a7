package dev.optserve;

import com.google.protobuf.Message;
import dev.optserve.Frames.Incoming;
import dev.optserve.OptserveException.Applied;
import io.grpc.*;
import io.grpc.stub.*;
import java.io.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;

/** Makes calls, and repeats them until they succeed, cannot succeed, or their deadline has come. */
final class Connection implements AutoCloseable {
    private static final long FIRST_PAUSE_NANOS = Duration.ofMillis(100).toNanos();
    private static final long LONGEST_PAUSE_NANOS = Duration.ofSeconds(1).toNanos();
    private static final long BYTES_PER_SECOND = 10_000_000; // assumed of a slow network

    final ManagedChannel channel;
    final ScheduledThreadPoolExecutor timers = new ScheduledThreadPoolExecutor(1, daemons("optserve-timer"));
    final ExecutorService callbacks = Executors.newCachedThreadPool(daemons("optserve-callback"));
    final Set<StepEngine> engines = ConcurrentHashMap.newKeySet();
    private final Duration timeout;
    private volatile boolean isClosed;

    /** Uses a channel, whose callbacks run in the threads of its transport; timeout is that of calls without one. */
    Connection(ManagedChannel channel, Duration timeout) {
        this.channel = channel;
        this.timeout = timeout;
        timers.setRemoveOnCancelPolicy(true);
    }

    private static ThreadFactory daemons(String name) {
        return task -> {
            Thread thread = new Thread(task, name);
            thread.setDaemon(true);
            return thread;
        };
    }

    @Override
    public void close() {
        isClosed = true;
        engines.forEach(StepEngine::close);
        channel.shutdownNow();
        timers.shutdownNow();
        callbacks.shutdown();
    }

    /** Returns a deadline: that of gRPC's context if it is earlier. The client's own is later for a long transfer. */
    Deadline deadline(Duration stated, long byteCount) {
        Duration limit = stated != null ? stated : timeout.plusSeconds(byteCount / BYTES_PER_SECOND);
        long nanos = limit.compareTo(Duration.ofDays(36500)) < 0 ? limit.toNanos() : Long.MAX_VALUE / 4;
        Deadline deadline = Deadline.after(nanos, TimeUnit.NANOSECONDS);
        Deadline ofContext = Context.current().getDeadline();
        return ofContext == null ? deadline : deadline.minimum(ofContext);
    }

    /** Returns the pause before a repeat. */
    static long pauseNanos(int failures, OptserveException error) {
        long pause = Math.min(LONGEST_PAUSE_NANOS, FIRST_PAUSE_NANOS << Math.min(failures - 1, 8));
        long jitter = ThreadLocalRandom.current().nextLong(pause / 2);
        return Math.max(error.retryAfter().toNanos(), pause - jitter);
    }

    /** One attempt of a call. */
    interface Attempt<A> {
        A run(CallOptions options) throws StatusException, InterruptedException, IOException;
    }

    /** Makes a call that may be repeated: a read, or a change with a request id. */
    <A> A call(Deadline deadline, Attempt<A> attempt) {
        for (int failures = 1; ; failures++) {
            try {
                OptserveException error;
                try {
                    return attempt.run(CallOptions.DEFAULT.withDeadline(deadline));
                } catch (StatusException failure) {
                    error = OptserveException.of(failure.getStatus(), failure.getTrailers());
                } catch (OptserveException failure) {
                    error = failure;
                }
                long pause = pauseNanos(failures, error);
                boolean isOver = isClosed || Context.current().isCancelled();
                if (isOver || !error.isRetryable() || deadline.timeRemaining(TimeUnit.NANOSECONDS) <= pause)
                    throw error;
                TimeUnit.NANOSECONDS.sleep(pause);
                channel.resetConnectBackoff(); // the pause before this repeat is enough
            } catch (InterruptedException interrupt) {
                throw OptserveException.interrupted(Applied.UNKNOWN);
            } catch (IOException failure) {
                throw new UncheckedIOException(failure);
            }
        }
    }

    /** Makes a call with one request and one answer. Fields that are left out get values by name, a change its id. */
    <Q extends Message, A> A call(MethodDescriptor<Q, A> method, Q request, Map<String, Object> defaults) {
        Message.Builder builder = request.toBuilder();
        for (var field : request.getDescriptorForType().getFields()) {
            Object value = field.getName().equals("request_id") ? newId() : defaults.get(field.getName());
            if (value == null || !request.getField(field).equals(field.getDefaultValue())) continue;
            builder.setField(field, value);
        }
        @SuppressWarnings("unchecked") // a message's builder makes messages of its type
        Q complete = (Q) builder.build();
        return call(deadline(null, 0), options -> ClientCalls.blockingV2UnaryCall(channel, method, options, complete));
    }

    static String newId() {
        return UUID.randomUUID().toString();
    }

    /** Takes the messages of an answer. */
    interface Reader<M> {
        void add(Incoming<M> message) throws IOException;
    }

    /** Makes an attempt of a call with one request and an answer in chunks. */
    <Q, M> void download(MethodDescriptor<Q, Incoming<M>> method, CallOptions options, Q request, Reader<M> reader)
            throws StatusException, InterruptedException, IOException {
        var call = ClientCalls.blockingV2ServerStreamingCall(channel, method, options, request);
        try {
            for (Incoming<M> next = call.read(); next != null; next = call.read()) {
                try (Incoming<M> message = next) {
                    reader.add(message);
                }
            }
        } finally {
            call.cancel("the answer is not read", null); // has no effect if the call has ended
        }
    }

    /** Sends the messages of a request. */
    interface Writer<Q, A> {
        void write(BlockingClientCall<Q, A> call) throws StatusException, InterruptedException, IOException;
    }

    /** Makes an attempt of a call with a request in chunks and one answer. */
    <Q, A> A upload(MethodDescriptor<Q, A> method, CallOptions options, Writer<Q, A> writer)
            throws StatusException, InterruptedException, IOException {
        BlockingClientCall<Q, A> call = ClientCalls.blockingClientStreamingCall(channel, method, options);
        try {
            writer.write(call);
            call.halfClose();
            return call.read();
        } finally {
            call.cancel("the request is not sent", null); // has no effect if the call has ended
        }
    }
}
