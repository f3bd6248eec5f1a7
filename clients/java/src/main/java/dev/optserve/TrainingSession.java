package dev.optserve;

import com.google.protobuf.Message;
import dev.optserve.Frames.*;
import dev.optserve.v1.*;
import io.grpc.*;
import io.grpc.stub.ClientCalls;
import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.function.Predicate;

/**
 * A handle of a session on a server. Each handle is one worker, which numbers its steps; any number of threads may use
 * it. Methods wait for the server's answer, and throw {@link OptserveException}; an interrupt cancels a call.
 *
 * <p>Requests of the contract may leave out the session's name and the request id.
 */
public final class TrainingSession implements AutoCloseable {
    private static final MethodDescriptor<PullParametersRequest, Incoming<PullParametersResponse>> PULL =
            Frames.receiving(SessionServiceGrpc.getPullParametersMethod());
    private static final MethodDescriptor<Outgoing, PushParametersResponse> PUSH =
            Frames.sending(SessionServiceGrpc.getPushParametersMethod());

    final Connection connection;
    private final String name;
    private final String worker;
    final Layout layout;
    final StepEngine engine;
    private final StepStream oneByOne = new StepStream(this, 1);
    volatile long epoch; // 0 if the worker is no member
    volatile long parametersStep; // of the parameters that were received last

    TrainingSession(Connection connection, Session session, String worker) {
        this.connection = connection;
        this.worker = worker;
        name = session.getName();
        layout = new Layout(session.getLayoutList());
        engine = new StepEngine(connection);
    }

    /** Returns the resource name, sessions/{id}. */
    public String name() {
        return name;
    }

    /** Returns the name under which the handle numbers its steps. */
    public String worker() {
        return worker;
    }

    /** Returns the tensors in the order of their bytes. */
    public List<TensorLayout> layout() {
        return layout.tensors();
    }

    /**
     * Takes a step of any size, and repeats it until its deadline; it is applied once. If the error's {@link
     * OptserveException#applied} is UNKNOWN, a step with the same content settles whether it was applied.
     */
    public StepAnswer step(Step step) {
        return oneByOne.take(step);
    }

    /** Returns a stream of this handle's worker that has several steps in flight, at most 64. */
    public StepStream stream(int window) {
        return new StepStream(this, window);
    }

    Deadline deadline() {
        return connection.deadline(null, layout.byteCount());
    }

    /** Reads all parameters. */
    public Parameters pull() {
        return pull(PullParametersRequest.getDefaultInstance(), Map.of());
    }

    /**
     * Reads parameters: which, of which point, in which type on the wire, and whether to wait for a later step. The
     * arrays of into are filled, by name; new ones are made for other tensors.
     */
    public Parameters pull(PullParametersRequest request, Map<String, NdArray> into) {
        layout.check("into", into);
        var named = request.toBuilder().setName(name).build();
        Parameters found = connection.call(deadline(), options -> {
            var header = ParametersHeader.newBuilder();
            var reception = new Reception[1]; // begins with the header
            connection.download(PULL, options, named, answer -> {
                if (answer.head().hasHeader()) {
                    header.mergeFrom(answer.head().getHeader());
                    reception[0] = new Reception(header.getLayoutList(), header.getByteCount(), into);
                }
                reception[0].add(answer);
            });
            if (!reception[0].isComplete()) throw OptserveException.malformed("an early end");
            return new Parameters(header.getStep(), reception[0].arrays());
        });
        parametersStep = found.step();
        return found;
    }

    /** Writes parameters: all given ones, or none. */
    public Session push(Map<String, NdArray> values) {
        return push(PushHeader.getDefaultInstance(), values);
    }

    /** Writes parameters: all given ones, or none. The client sets names, types and number of bytes. */
    public Session push(PushHeader options, Map<String, NdArray> values) {
        layout.check("values", values);
        List<String> names = layout.names(values);
        List<Payload.Part> parts = new ArrayList<>();
        for (String each : names)
            parts.add(new Payload.Part(
                    values.get(each), layout.find("values", each).getDtype()));
        Payload payload = new Payload(parts);
        PushHeader.Builder header = options.toBuilder().setName(name).setByteCount(payload.byteCount());
        header.clearTensors().addAllTensors(names).clearWireDtype();
        if (header.getRequestId().isEmpty()) header.setRequestId(Connection.newId());
        var head = PushParametersRequest.newBuilder().setHeader(header).build();
        var answer = connection.call(
                deadline(), call -> connection.upload(PUSH, call, upload -> payload.send(head, upload)));
        return answer.getSession();
    }

    /**
     * Reads the session's events, from its current state until it is deleted, onEvent returns false, or the thread is
     * interrupted. A lost connection is an error: watch again.
     */
    public void watch(Predicate<WatchSessionResponse> onEvent) {
        var request = WatchSessionRequest.newBuilder().setName(name).build();
        var method = SessionServiceGrpc.getWatchSessionMethod();
        var call = ClientCalls.blockingV2ServerStreamingCall(connection.channel, method, CallOptions.DEFAULT, request);
        try {
            while (call.hasNext() && onEvent.test(call.read())) {}
        } catch (StatusException failure) {
            throw OptserveException.of(failure.getStatus(), failure.getTrailers());
        } catch (InterruptedException interrupt) {
            throw OptserveException.interrupted(OptserveException.Applied.NO);
        } finally {
            call.cancel("no more events are read", null); // has no effect if the call has ended
        }
    }

    /**
     * Makes any call of the contract that has one request and one answer. Of what the request leaves out, the name of the
     * session, the worker and its epoch are set, and the request id of a change: {@code
     * call(SessionServiceGrpc.getCreateSnapshotMethod(), CreateSnapshotRequest.getDefaultInstance())}.
     */
    public <Q extends Message, A> A call(MethodDescriptor<Q, A> method, Q request) {
        return connection.call(
                method, request, Map.of("name", name, "session", name, "worker", worker, "worker_epoch", epoch));
    }

    /** Creates a copy of the session. The request may name a snapshot, and an id of the copy. */
    public TrainingSession fork(ForkSessionRequest request) {
        var copy = call(SessionServiceGrpc.getForkSessionMethod(), request).getSession();
        return new TrainingSession(connection, copy, Connection.newId());
    }

    /**
     * Makes the worker a member, whose steps carry the epoch until it leaves. The membership ends after a lease without a
     * step or a call of the worker; null is the server's default. Join again after FENCED or NOT_A_MEMBER.
     */
    public JoinSessionResponse join(Duration lease) {
        var request = JoinSessionRequest.newBuilder();
        if (lease != null) request.setLeaseSeconds(lease.toNanos() / 1e9);
        JoinSessionResponse joined = call(WorkerServiceGrpc.getJoinSessionMethod(), request.build());
        epoch = joined.getEpoch();
        parametersStep = joined.getSession().getStep();
        return joined;
    }

    /** Ends the membership; steps that wait for other members are rejected. */
    public void leave() {
        call(WorkerServiceGrpc.getLeaveSessionMethod(), LeaveSessionRequest.getDefaultInstance());
        epoch = 0;
    }

    /** Deletes the session and everything it holds. */
    public void delete() {
        close();
        call(SessionServiceGrpc.getDeleteSessionMethod(), DeleteSessionRequest.getDefaultInstance());
    }

    /** Ends the handle's stream. The session stays on the server, and a membership ends with its lease. */
    @Override
    public void close() {
        engine.close();
    }
}
