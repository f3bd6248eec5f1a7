package optserve

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	random "math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

const (
	firstPause     = 100 * time.Millisecond
	longestPause   = time.Second
	bytesPerSecond = 10e6 // assumed of a slow network, where the caller states no deadline
)

// bounded gives a context without a deadline the client's own.
func (c *Client) bounded(ctx context.Context, byteCount int) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok || c.timeout <= 0 {
		return ctx, func() {}
	}
	transfer := time.Duration(float64(byteCount) / bytesPerSecond * float64(time.Second))
	return context.WithTimeout(ctx, c.timeout+transfer)
}

// pause waits before a repeat. It returns the final error if there is to be none.
func (c *Client) pause(ctx context.Context, attempt int, e *Error) *Error {
	if c.ctx.Err() != nil {
		return &Error{Code: e.Code, Message: "the client is closed", cause: e}
	}
	if ctx.Err() == nil && !e.repeatable() {
		return e
	}
	pause := min(longestPause, firstPause<<min(attempt-1, 8))
	pause = max(e.RetryAfter, pause-time.Duration(random.Int64N(int64(pause/2))))
	deadline, bounded := ctx.Deadline()
	if ctx.Err() != nil || bounded && time.Until(deadline) <= pause {
		if attempt > 1 {
			e.Message += fmt.Sprintf(" (tried %d times)", attempt)
		}
		return e.endedBy(ctx)
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	case <-c.ctx.Done():
	}
	return nil
}

// retry makes attempts until one succeeds, or a repeat has no prospect.
func (c *Client) retry(ctx context.Context, byteCount int, attempt func(context.Context) error) error {
	ctx, cancel := c.bounded(ctx, byteCount)
	defer cancel()
	for count := 1; ; count++ {
		err := attempt(ctx)
		if err == nil {
			return nil
		}
		if e := c.pause(ctx, count, failure(err, nil)); e != nil {
			return e
		}
	}
}

// intercept makes a unary call that may be repeated: a read, or a change, which gets a request id.
func (c *Client) intercept(ctx context.Context, method string, request, answer any,
	connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	type change interface {
		proto.Message
		GetRequestId() string
		SetRequestId(string)
	}
	if change, ok := request.(change); ok && change.GetRequestId() == "" {
		change = proto.CloneOf(change) // the caller's message may be that of another change next
		change.SetRequestId(rand.Text())
		request = change
	}
	return c.retry(ctx, 0, func(ctx context.Context) error {
		var trailer metadata.MD
		err := invoke(ctx, method, request, answer, connection, append(options, grpc.Trailer(&trailer))...)
		if err != nil {
			return failure(err, trailer)
		}
		return nil
	})
}

// typedStream is a stream whose errors are an [Error].
type typedStream struct{ grpc.ClientStream }

func interceptStream(ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn,
	method string, open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := open(ctx, description, connection, method, options...)
	if err != nil {
		return nil, failure(err, nil)
	}
	return typedStream{stream}, nil
}

func (s typedStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return failure(err, s.Trailer())
}
