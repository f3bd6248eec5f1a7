package dev.optserve;

import com.google.protobuf.*;
import com.google.rpc.*;
import dev.optserve.v1.ErrorReason;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.*;

/** A call failed. Act on {@link #reason()} or {@link #code()}, never on the text. */
public final class OptserveException extends RuntimeException {
    private static final long serialVersionUID = 1;
    private static final String PREFIX = "ERROR_REASON_";
    private static final Metadata.Key<String> REQUEST_ID =
            Metadata.Key.of("x-request-id", Metadata.ASCII_STRING_MARSHALLER);

    /** Whether a failed call may have changed anything. */
    public enum Applied {
        /** Not known. The same call again settles it. */
        UNKNOWN,
        /** It changed nothing. */
        NO
    }

    private final Status.Code code;
    private Applied applied;
    private ErrorInfo info = ErrorInfo.getDefaultInstance(); // its reason is empty if there is none
    private String field = "";
    private Duration retryAfter = Duration.ZERO;
    private String requestId = "";

    /** Makes an error of the client itself, or of a call without details. */
    OptserveException(Status.Code code, Applied applied, String message, Throwable cause) {
        super(message, cause);
        this.code = code;
        this.applied = applied;
    }

    /** Makes the error of an argument that cannot be sent. */
    static OptserveException invalid(ErrorReason reason, String field, String message) {
        OptserveException error = new OptserveException(Status.Code.INVALID_ARGUMENT, Applied.NO, message, null);
        String name = reason.name().substring(PREFIX.length());
        error.info = ErrorInfo.newBuilder().setReason(name).build();
        error.field = field;
        return error;
    }

    /** Makes the error of an answer that breaks the contract. */
    static OptserveException malformed(String message) {
        return new OptserveException(Status.Code.INTERNAL, Applied.UNKNOWN, "the server's answer has " + message, null);
    }

    /** Makes the error of a call whose thread was interrupted, and keeps the interrupt. */
    static OptserveException interrupted(Applied applied) {
        Thread.currentThread().interrupt();
        return new OptserveException(Status.Code.CANCELLED, applied, "the thread was interrupted", null);
    }

    /** Decodes the status of a call; trailers may be null. */
    static OptserveException of(Status status, Metadata trailers) {
        String text = Objects.requireNonNullElse(status.getDescription(), "the call failed");
        OptserveException error = new OptserveException(status.getCode(), Applied.UNKNOWN, text, status.getCause());
        if (trailers != null && trailers.containsKey(REQUEST_ID)) error.requestId = trailers.get(REQUEST_ID);
        try {
            var details = StatusProto.fromStatusAndTrailers(status, trailers);
            for (Any detail : details.getDetailsList()) error.add(detail);
        } catch (InvalidProtocolBufferException malformed) {
            // They are not the server's; the status remains.
        }
        return error;
    }

    private void add(Any detail) throws InvalidProtocolBufferException {
        if (detail.is(ErrorInfo.class)) {
            ErrorInfo found = detail.unpack(ErrorInfo.class);
            if (!found.getDomain().equals("optserve.v1")) return;
            info = found;
            if ("no".equals(found.getMetadataMap().get("applied"))) applied = Applied.NO;
        } else if (detail.is(BadRequest.class)) {
            for (var violation : detail.unpack(BadRequest.class).getFieldViolationsList()) field = violation.getField();
        } else if (detail.is(RetryInfo.class)) {
            var delay = detail.unpack(RetryInfo.class).getRetryDelay();
            retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
        }
    }

    /** Returns the reason or the status, what was wrong, the field and the request. */
    @Override
    public String getMessage() {
        String text = (info.getReason().isEmpty() ? code.name() : info.getReason()) + ": " + super.getMessage();
        if (!field.isEmpty()) text += " (" + field + ")";
        return requestId.isEmpty() ? text : text + " [request " + requestId + "]";
    }

    /** Returns the gRPC status code. */
    public Status.Code code() {
        return code;
    }

    /** Returns the contract's reason; unspecified if there is none, or it is newer than this client. */
    public ErrorReason reason() {
        var found = ErrorReason.getDescriptor().findValueByName(PREFIX + info.getReason());
        return found == null ? ErrorReason.ERROR_REASON_UNSPECIFIED : ErrorReason.valueOf(found);
    }

    /** Returns whether the call may have changed anything. */
    public Applied applied() {
        return applied;
    }

    /** Returns the path of the wrong field in the request; empty if there is none. */
    public String field() {
        return field;
    }

    /** Returns facts about the error as text; {@link ErrorReason} says which. */
    public Map<String, String> metadata() {
        return info.getMetadataMap();
    }

    /** Returns the time after which a repeat may succeed; zero if the server states none. */
    public Duration retryAfter() {
        return retryAfter;
    }

    /** Returns the name of the call in the server's log; empty if it is not known. */
    public String requestId() {
        return requestId;
    }

    /** Returns whether the same call may succeed later. */
    boolean isRetryable() {
        return switch (code) {
            case UNAVAILABLE -> true;
            case CANCELLED, DEADLINE_EXCEEDED, UNKNOWN -> info.getReason().isEmpty(); // UNKNOWN: a channel is closed
            default -> !info.getReason().isEmpty() && !retryAfter.isZero();
        };
    }
}
