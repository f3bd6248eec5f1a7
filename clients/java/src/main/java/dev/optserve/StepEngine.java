package dev.optserve;

import dev.optserve.Frames.*;
import dev.optserve.OptserveException.Applied;
import dev.optserve.PendingStep.Plan;
import dev.optserve.v1.*;
import io.grpc.*;
import io.grpc.SynchronizationContext.ScheduledHandle;
import java.io.*;
import java.util.*;
import java.util.concurrent.TimeUnit;

/**
 * Takes the steps of one worker, several of them in flight at once.
 *
 * <p>A sequence is used up when the result of its step is known. A rejected step gives its sequence to the next one. If
 * the result stays unknown, the next step gets the same sequence: the same content returns the stored result, and for
 * another content SEQUENCE_REUSED proves that the lost step was applied, and states where to continue.
 *
 * <p>Everything happens in a synchronization context: callers, gRPC's callbacks and timers hand over tasks, which run
 * one after the other in the thread of one of them. So nothing is locked while gRPC is called.
 */
final class StepEngine {
    static final int MAX_IN_FLIGHT = 64; // results that a server stores of each worker
    private static final int SEND_BYTES = 1 << 20; // sent messages that gRPC holds before it is not ready

    private static final MethodDescriptor<Outgoing, Incoming<StepStreamResponse>> METHOD =
            Frames.receiving(Frames.sending(SessionServiceGrpc.getStepStreamMethod()));

    private final Connection connection;
    private final SynchronizationContext context = new SynchronizationContext((thread, defect) -> onDefect(defect));
    private Plan lastPlan; // of the last step that was handed over
    private final List<PendingStep> waiting = new ArrayList<>(); // without an answer, in order
    private Exchange exchange; // null while there is no call
    private long next; // sequence of the next step; 0 until the server has said it
    private long unknownBelow; // smaller sequences may have been used by steps whose results stayed unknown
    private int failures; // since the last answer
    private ScheduledHandle pause; // before the next call; null if there is none
    private ScheduledHandle timer; // runs at the earliest deadline, or before
    private Deadline watched; // that deadline
    private boolean isClosed;

    StepEngine(Connection connection) {
        this.connection = connection;
        connection.engines.add(this);
    }

    /** Hands over a step; its future is completed in a thread of gRPC's transport, which must not wait. */
    void submit(PendingStep step) {
        context.execute(() -> {
            OptserveException earlier = step.stream == null ? null : step.stream.failure;
            if (isClosed || earlier != null) {
                step.future.completeExceptionally(isClosed ? closed(Applied.NO) : behind(earlier, Applied.NO));
                return;
            }
            if (lastPlan == null || !lastPlan.message.equals(step.planMessage)) lastPlan = new Plan(step.planMessage);
            step.plan = lastPlan;
            waiting.add(step);
            watch();
            pump();
        });
    }

    /** Takes a step back, if it has no answer yet; its arrays are free when its future is completed. */
    void withdraw(PendingStep step, Status.Code code, String message) {
        context.execute(() -> {
            int index = waiting.indexOf(step);
            if (index < 0) return;
            if (step.isSent) drop(); // nothing reads the arrays any more
            fail(index, new OptserveException(code, step.isSent ? Applied.UNKNOWN : Applied.NO, message, null));
            pump();
        });
    }

    /** Ends the call. Whether steps in flight are applied stays unknown. */
    void close() {
        context.execute(() -> {
            isClosed = true;
            connection.engines.remove(this);
            if (waiting.isEmpty() && exchange != null) {
                exchange.call.halfClose();
                exchange = null;
            } else {
                drop();
            }
            if (timer != null) timer.cancel();
            if (!waiting.isEmpty()) fail(0, closed(waiting.get(0).isSent ? Applied.UNKNOWN : Applied.NO));
        });
    }

    private static OptserveException closed(Applied applied) {
        return new OptserveException(Status.Code.CANCELLED, applied, "the handle, or its client, is closed", null);
    }

    private void onDefect(Throwable defect) {
        drop();
        fail(0, new OptserveException(Status.Code.INTERNAL, Applied.UNKNOWN, "the step failed: " + defect, defect));
    }

    /** Sends what can be sent. */
    private void pump() {
        if (waiting.isEmpty() || pause != null || isClosed) return;
        if (exchange == null) {
            if (failures > 0) connection.channel.resetConnectBackoff(); // the pause before this repeat is enough
            exchange = new Exchange();
            exchange.start();
        }
        exchange.send();
    }

    /** Ends the call; what was sent on it is sent again on the next. */
    private void drop() {
        if (pause != null) pause.cancel();
        pause = null;
        Exchange ended = exchange;
        exchange = null; // its callbacks are ignored
        if (ended != null) ended.call.cancel("the steps are sent again", null);
    }

    /** Sets the timer, unless it runs early enough. */
    private void watch() {
        Deadline earliest = null;
        for (PendingStep step : waiting) earliest = earliest == null ? step.deadline : step.deadline.minimum(earliest);
        if (earliest == null || timer != null && !earliest.isBefore(watched)) return;
        if (timer != null) timer.cancel();
        watched = earliest;
        long nanos = earliest.timeRemaining(TimeUnit.NANOSECONDS);
        timer = context.schedule(this::expire, Math.max(0, nanos), TimeUnit.NANOSECONDS, connection.timers);
    }

    private void expire() {
        timer = null;
        for (PendingStep step : List.copyOf(waiting)) {
            if (step.deadline.isExpired()) withdraw(step, Status.Code.DEADLINE_EXCEEDED, "there was no answer in time");
        }
        context.execute(this::watch); // behind the withdrawals
    }

    private void onEnd(Status status, Metadata trailers) {
        exchange = null;
        if (waiting.isEmpty()) return; // an idle stream; the next step opens another
        if (status.isOk()) status = Status.UNAVAILABLE.withDescription("the stream ended before its answer");
        OptserveException error = OptserveException.of(status, trailers);
        PendingStep oldest = waiting.get(0);
        if (error.reason() == ErrorReason.ERROR_REASON_SEQUENCE_REUSED && oldest.sequence < unknownBelow) {
            next = expected(error); // the step whose result stayed unknown was applied
            for (PendingStep step : waiting) {
                if (step.sequence > 0) step.sequence = next++;
            }
            pump();
            return;
        }
        long nanos = Connection.pauseNanos(++failures, error);
        if (error.isRetryable() && nanos < oldest.deadline.timeRemaining(TimeUnit.NANOSECONDS)) {
            Runnable resume = () -> {
                pause = null;
                pump();
            };
            pause = context.schedule(resume, nanos, TimeUnit.NANOSECONDS, connection.timers);
        } else {
            fail(0, error);
        }
    }

    /** Fails a step, and those behind it: the server has applied none of them if it has not applied this one. */
    private void fail(int index, OptserveException error) {
        List<PendingStep> failed = List.copyOf(waiting.subList(index, waiting.size()));
        waiting.subList(index, waiting.size()).clear();
        failures = 0;
        for (PendingStep step : failed) {
            if (step.sequence == 0) continue;
            next = Math.min(next, step.sequence);
            if (error.applied() == Applied.UNKNOWN) unknownBelow = Math.max(unknownBelow, step.sequence + 1);
        }
        if (error.reason().name().contains("SEQUENCE")) next = expected(error);
        for (PendingStep step : failed) {
            Applied applied = step.isSent ? error.applied() : Applied.NO;
            OptserveException own = step == failed.get(0) ? error : behind(error, applied);
            if (step.stream != null) step.stream.failure = own;
            step.future.completeExceptionally(own);
        }
    }

    private static OptserveException behind(OptserveException error, Applied applied) {
        String message = "an earlier step failed: " + error.getMessage();
        return new OptserveException(Status.Code.ABORTED, applied, message, error);
    }

    /** Returns where the worker continues, as the server states it. */
    private long expected(OptserveException error) {
        String text = error.metadata().get("expected");
        return text == null ? next : Long.parseUnsignedLong(text);
    }

    /** One call of StepStream. Its callbacks are ignored when the engine has dropped it. */
    private final class Exchange extends ClientCall.Listener<Incoming<StepStreamResponse>> {
        private final ClientCall<Outgoing, Incoming<StepStreamResponse>> call =
                connection.channel.newCall(METHOD, CallOptions.DEFAULT.withOnReadyThreshold(SEND_BYTES));
        private final Queue<Plan> plansToAnswer = new ArrayDeque<>();
        private Plan plan; // the last one that was sent
        private int sent; // steps that were sent, the last one perhaps up to a chunk
        private Payload.Chunk chunk; // to be sent next; null if the last step is complete
        private StepStreamResponse answer; // to the oldest step, while its parameters are received
        private Reception reception; // of these

        void start() {
            // The stream outlives the context of the caller whose step opens it.
            Context.ROOT.run(() -> call.start(this, new Metadata()));
            call.request(2);
        }

        @Override
        public void onReady() {
            context.execute(this::send);
        }

        @Override
        public void onMessage(Incoming<StepStreamResponse> message) {
            context.execute(() -> {
                try (message) {
                    if (exchange == this) receive(message);
                } catch (IOException unexpected) {
                    throw new UncheckedIOException(unexpected);
                }
            });
        }

        @Override
        public void onClose(Status status, Metadata trailers) {
            context.execute(() -> {
                if (exchange == this) onEnd(status, trailers);
            });
        }

        /** Sends steps while gRPC takes them; it calls onReady when it takes more. */
        void send() {
            while (exchange == this && call.isReady()) {
                if (chunk != null) {
                    call.sendMessage(new Outgoing(StepStreamRequest.getDefaultInstance(), chunk));
                    chunk = chunk.next();
                    continue;
                }
                if (sent == Math.min(waiting.size(), MAX_IN_FLIGHT)) return;
                PendingStep step = waiting.get(sent);
                if (plan != step.plan) {
                    plan = step.plan;
                    plansToAnswer.add(plan);
                    var message = StepStreamRequest.newBuilder().setPlan(plan.message);
                    call.sendMessage(new Outgoing(message.build(), null));
                }
                if (plan.answer == null) return; // it has the layout
                if (step.sequence == 0 && !step.isValidation()) step.sequence = next++;
                step.isSent = true;
                sent++;
                Payload payload = step.payload();
                chunk = payload.first();
                call.sendMessage(new Outgoing(step.begin(payload.byteCount()), chunk));
                if (chunk != null) chunk = chunk.next();
            }
        }

        private void receive(Incoming<StepStreamResponse> message) throws IOException {
            call.request(1);
            StepStreamResponse head = message.head();
            if (head.hasPlanned()) {
                plansToAnswer.remove().answer = head.getPlanned();
                if (next == 0) next = head.getPlanned().getNextSequence();
                send();
                return;
            }
            if (sent == 0) throw OptserveException.malformed("no step that it belongs to");
            PendingStep step = waiting.get(0);
            if (head.hasResult()) {
                answer = head;
                ByteLayout layout = step.plan.answer.getParameters(); // empty if none are pulled
                reception = new Reception(layout.getTensorsList(), layout.getByteCount(), step.into);
            }
            if (answer == null) throw OptserveException.malformed("no result");
            reception.add(message);
            if (!reception.isComplete()) return;
            waiting.remove(0);
            sent--;
            failures = 0;
            Parameters parameters = new Parameters(answer.getParametersStep(), reception.arrays());
            step.future.complete(new StepAnswer(answer.getResult(), parameters));
            answer = null;
            send();
        }
    }
}
