package optserve

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

const errorDomain = "optserve.v1"

// Applied says whether a failed call may have changed anything.
type Applied int

const (
	AppliedUnknown Applied = iota // not known; making the same call again settles it
	AppliedNo                     // the call changed nothing
)

// Error is the error of a failed call. Act on Reason or Code, never on the text.
//
// An error that ended with its context wraps the context's error, so that
// errors.Is(err, context.DeadlineExceeded) works as usual.
type Error struct {
	Code       codes.Code
	Reason     pb.ErrorReason    // unspecified if it is not the server's, or newer than this client
	Message    string            // what was wrong
	Field      string            // path of the wrong field in the request; empty if there is none
	Metadata   map[string]string // facts about the error, as text; ErrorReason says which
	RetryAfter time.Duration     // after which a repeat may succeed; 0 if the server states none
	RequestID  string            // name of the call in the server's log
	Applied    Applied           // whether the call may have changed anything

	fromServer bool // whether it has the server's ErrorInfo
	cause      error
}

// Error returns the reason, what was wrong, and the field.
func (e *Error) Error() string {
	kind := e.Code.String()
	if e.Reason != 0 {
		kind = strings.TrimPrefix(e.Reason.String(), "ERROR_REASON_")
	}
	text := fmt.Sprintf("optserve: %s: %s", kind, e.Message)
	if e.Field != "" {
		text += " (" + e.Field + ")"
	}
	if e.RequestID != "" {
		text += " [request " + e.RequestID + "]"
	}
	return text
}

// Unwrap returns the error of the context, or of the earlier step that caused this one.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus returns code and message, for status.FromError.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// ReasonOf returns the contract's reason of an error; unspecified if it has none.
func ReasonOf(err error) pb.ErrorReason {
	if failure := (*Error)(nil); errors.As(err, &failure) {
		return failure.Reason
	}
	return 0
}

// repeatable is whether the same call may succeed later.
func (e *Error) repeatable() bool {
	if e.fromServer {
		return e.RetryAfter > 0 || e.Code == codes.Unavailable
	}
	return e.Code == codes.Unavailable || e.Code == codes.Canceled || e.Code == codes.DeadlineExceeded
}

// rejected returns the error of an argument that cannot be sent.
func rejected(reason pb.ErrorReason, field, format string, arguments ...any) *Error {
	message := fmt.Sprintf(format, arguments...)
	return &Error{Code: codes.InvalidArgument, Reason: reason, Message: message, Field: field, Applied: AppliedNo}
}

// malformed returns the error of an answer that breaks the contract.
func malformed(format string, arguments ...any) *Error {
	return &Error{Code: codes.Internal, Message: "the answer of the server " + fmt.Sprintf(format, arguments...)}
}

// ended returns the error of a context that is done.
func ended(ctx context.Context, applied Applied) *Error {
	e := &Error{Message: ctx.Err().Error(), Applied: applied}
	return e.endedBy(ctx)
}

// endedBy notes that the call ended with its context, if it did.
func (e *Error) endedBy(ctx context.Context) *Error {
	if err := ctx.Err(); err != nil && !e.fromServer {
		e.Code, e.cause = status.FromContextError(err).Code(), err
	}
	return e
}

// failure decodes the error of an attempt; nil if there is none.
func failure(err error, trailer metadata.MD) *Error {
	if err == nil {
		return nil
	}
	if own := (*Error)(nil); errors.As(err, &own) {
		return own
	}
	found := status.Convert(err)
	e := &Error{Code: found.Code(), Message: found.Message()}
	if ids := trailer.Get("x-request-id"); len(ids) > 0 {
		e.RequestID = ids[0]
	}
	for _, detail := range found.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() != errorDomain {
				continue
			}
			e.fromServer = true
			e.Reason = pb.ErrorReason(pb.ErrorReason_value["ERROR_REASON_"+detail.GetReason()])
			e.Metadata = detail.GetMetadata()
			if e.Metadata["applied"] == "no" {
				e.Applied = AppliedNo
			}
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				e.Field = violation.GetField()
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	return e
}
