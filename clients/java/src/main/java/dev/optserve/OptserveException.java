package dev.optserve;

import com.google.protobuf.*;
import com.google.rpc.*;
import dev.optserve.v1.ErrorReason;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.Map;

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
    private final Applied applied;
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
        String name = reason.name().substring(PREFIX.length());
        String text = name + ": " + message + " (" + field + ")";
        OptserveException error = new OptserveException(Status.Code.INVALID_ARGUMENT, Applied.NO, text, null);
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
        ErrorInfo info = ErrorInfo.getDefaultInstance();
        String field = "";
        Duration retryAfter = Duration.ZERO;
        try {
            for (Any detail :
                    StatusProto.fromStatusAndTrailers(status, trailers).getDetailsList()) {
                if (detail.is(ErrorInfo.class)) {
                    ErrorInfo found = detail.unpack(ErrorInfo.class);
                    if (found.getDomain().equals("optserve.v1")) info = found;
                } else if (detail.is(BadRequest.class)) {
                    field = detail.unpack(BadRequest.class)
                            .getFieldViolations(0)
                            .getField();
                } else if (detail.is(RetryInfo.class)) {
                    var delay = detail.unpack(RetryInfo.class).getRetryDelay();
                    retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
                }
            }
        } catch (InvalidProtocolBufferException | IndexOutOfBoundsException malformed) {
            field = ""; // they are not the server's; the status remains
        }
        String id = trailers == null ? null : trailers.get(REQUEST_ID);
        String text = info.getReason().isEmpty() ? status.getCode().name() : info.getReason();
        if (status.getDescription() != null) text += ": " + status.getDescription();
        if (!field.isEmpty()) text += " (" + field + ")";
        if (id != null) text += " [request " + id + "]";
        Applied applied = "no".equals(info.getMetadataMap().get("applied")) ? Applied.NO : Applied.UNKNOWN;
        OptserveException error = new OptserveException(status.getCode(), applied, text, status.getCause());
        error.info = info;
        error.field = field;
        error.retryAfter = retryAfter;
        if (id != null) error.requestId = id;
        return error;
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
            case CANCELLED, DEADLINE_EXCEEDED -> info.getReason().isEmpty();
            default -> !info.getReason().isEmpty() && !retryAfter.isZero();
        };
    }
}
