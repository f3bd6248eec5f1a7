package dev.optserve;

import dev.optserve.Frames.Incoming;
import dev.optserve.OptserveException.Applied;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import java.io.IOException;
import java.time.Duration;
import java.util.Iterator;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.Semaphore;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

/** Makes calls, and repeats them until they succeed, cannot succeed, or their deadline has come. */
final class Connection implements AutoCloseable {
    private static final long FIRST_PAUSE_NANOS = Duration.ofMillis(50).toNanos();
    private static final long LONGEST_PAUSE_NANOS = Duration.ofSeconds(2).toNanos();
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
        return Math.max(error.retryAfter().toNanos(), pause - ThreadLocalRandom.current().nextLong(pause / 2));
    }

    /** Makes a call that may be repeated: a read, or a change with a request id. */
    <A> A call(Deadline deadline, Function<CallOptions, A> attempt) {
        CallOptions options = CallOptions.DEFAULT.withDeadline(deadline);
        for (int failures = 1; ; failures++) {
            OptserveException error;
            try {
                return attempt.apply(options);
            } catch (StatusRuntimeException failure) {
                error = OptserveException.of(failure.getStatus(), failure.getTrailers());
            } catch (OptserveException failure) {
                error = failure;
            }
            long pause = pauseNanos(failures, error);
            boolean isOver = isClosed || Thread.currentThread().isInterrupted() || Context.current().isCancelled();
            if (isOver || !error.isRetryable() || deadline.timeRemaining(TimeUnit.NANOSECONDS) <= pause) throw error;
            try {
                TimeUnit.NANOSECONDS.sleep(pause);
            } catch (InterruptedException interrupt) {
                Thread.currentThread().interrupt();
                throw error;
            }
            channel.resetConnectBackoff(); // the pause before this repeat is enough
        }
    }

    /** Makes a call with one request and one answer. */
    <Q, A> A call(Deadline deadline, MethodDescriptor<Q, A> method, Q request) {
        return call(deadline, options -> ClientCalls.blockingUnaryCall(channel, method, options, request));
    }

    /** Makes a call with one request and an answer in chunks, which a reader takes until it has enough. */
    <Q, M, A> A download(
            MethodDescriptor<Q, Incoming<M>> method,
            CallOptions options,
            Q request,
            Function<Iterator<Incoming<M>>, A> reader) {
        var call = channel.newCall(method, options);
        Iterator<Incoming<M>> answers = ClientCalls.blockingServerStreamingCall(call, request);
        try {
            return reader.apply(answers);
        } finally {
            call.cancel("the answer was read", null); // has no effect if the call has ended
            try {
                while (answers.hasNext()) answers.next().close();
            } catch (StatusRuntimeException | IOException ended) {
                // What matters was read, or the reader has thrown why not.
            }
        }
    }

    /** Makes a call with a request in chunks and one answer. */
    <Q, A> A upload(MethodDescriptor<Q, A> method, CallOptions options, Iterator<Q> requests) {
        ClientCall<Q, A> call = channel.newCall(method, options);
        Semaphore progress = new Semaphore(0);
        CompletableFuture<A> answer = new CompletableFuture<>();
        call.start(
                new ClientCall.Listener<>() {
                    private A message;

                    @Override
                    public void onReady() {
                        progress.release();
                    }

                    @Override
                    public void onMessage(A message) {
                        this.message = message;
                    }

                    @Override
                    public void onClose(Status status, Metadata trailers) {
                        if (status.isOk()) answer.complete(message);
                        else answer.completeExceptionally(OptserveException.of(status, trailers));
                        progress.release();
                    }
                },
                new Metadata());
        try {
            call.request(2); // of which one is the answer
            while (!answer.isDone() && requests.hasNext()) {
                if (call.isReady()) call.sendMessage(requests.next());
                else progress.acquire();
            }
            if (!answer.isDone()) call.halfClose();
            return answer.get();
        } catch (InterruptedException interrupt) {
            Thread.currentThread().interrupt();
            throw new OptserveException(Status.Code.CANCELLED, Applied.UNKNOWN, "the thread was interrupted", interrupt);
        } catch (ExecutionException failure) {
            throw (OptserveException) failure.getCause().fillInStackTrace(); // that of this thread
        } finally {
            call.cancel("the call is given up", null); // has no effect if it has ended
        }
    }
}
