package dev.optserve;

import dev.optserve.OptserveException.Applied;
import dev.optserve.v1.ErrorReason;
import io.grpc.*;
import java.util.concurrent.*;

/**
 * Takes steps of a session's handle, several of them in flight at once. They are applied in the order in which they
 * were submitted, each once. When a step fails, those behind it and later ones fail as well; another stream continues.
 */
public final class StepStream implements AutoCloseable {
    OptserveException failure; // of a step; used in the engine's context only
    private final TrainingSession session;
    private final int window;
    private final Semaphore permits;

    StepStream(TrainingSession session, int window) {
        if (window < 1 || window > StepEngine.MAX_IN_FLIGHT) {
            String message = "it is " + window + ", but must be from 1 to " + StepEngine.MAX_IN_FLIGHT;
            throw OptserveException.invalid(ErrorReason.ERROR_REASON_OUT_OF_RANGE, "window", message);
        }
        this.session = session;
        this.window = window;
        permits = new Semaphore(window, true);
    }

    /**
     * Hands over a step. It waits only while the window is full. The step's arrays must not be used until the future is
     * complete.
     *
     * @return the answer, or an {@link OptserveException} as the cause. Cancelling it withdraws the step, as a deadline
     *     does: whether it is applied stays unknown. What depends on it runs in a thread of the client.
     * @throws OptserveException the step cannot be sent, or the window is full until its deadline
     */
    public CompletableFuture<StepAnswer> submit(Step step) {
        PendingStep pending = new PendingStep(step, this, session);
        acquire(1, pending.deadline);
        CompletableFuture<StepAnswer> answer = new CompletableFuture<>();
        pending.future.whenComplete((found, error) -> {
            permits.release();
            session.connection.callbacks.execute(() -> {
                if (error == null) answer.complete(found);
                else answer.completeExceptionally(error);
            });
        });
        answer.whenComplete((found, error) -> {
            if (answer.isCancelled()) withdraw(pending, "the step was cancelled");
        });
        session.engine.submit(pending);
        return answer;
    }

    /** Takes a step when no other is in flight, and waits for its answer. */
    StepAnswer take(Step step) {
        PendingStep pending = new PendingStep(step, null, session);
        acquire(1, pending.deadline);
        session.engine.submit(pending);
        boolean isInterrupted = false;
        try {
            while (true) {
                try {
                    return pending.future.get();
                } catch (InterruptedException interrupt) {
                    isInterrupted = true;
                    withdraw(pending, "the thread was interrupted");
                } catch (ExecutionException failed) {
                    throw (OptserveException) failed.getCause().fillInStackTrace(); // that of this thread
                }
            }
        } finally {
            permits.release();
            if (isInterrupted) Thread.currentThread().interrupt();
        }
    }

    /** Waits until no step is in flight. The session's handle stays open. */
    @Override
    public void close() {
        acquire(window, session.deadline());
        permits.release(window);
    }

    private void withdraw(PendingStep pending, String message) {
        session.engine.withdraw(pending, Status.Code.CANCELLED, message);
    }

    private void acquire(int count, Deadline deadline) {
        try {
            if (permits.tryAcquire(count, deadline.timeRemaining(TimeUnit.NANOSECONDS), TimeUnit.NANOSECONDS)) return;
        } catch (InterruptedException interrupt) {
            throw OptserveException.interrupted(Applied.NO);
        }
        throw new OptserveException(Status.Code.DEADLINE_EXCEEDED, Applied.NO, "the window stays full", null);
    }
}
