package optserve

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

const (
	firstPause     = 100 * time.Millisecond
	longestPause   = 3 * time.Second
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
	pause = max(e.RetryAfter, pause-time.Duration(rand.Int64N(int64(pause/2))))
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
func (c *Client) retry(ctx context.Context, byteCount int, attempt func(context.Context) *Error) error {
	ctx, cancel := c.bounded(ctx, byteCount)
	defer cancel()
	for count := 1; ; count++ {
		e := attempt(ctx)
		if e == nil {
			return nil
		}
		if e = c.pause(ctx, count, e); e != nil {
			return e
		}
	}
}

// call makes a unary call that may be repeated: a read, or a change with a request id.
func call[Q, A any](
	ctx context.Context, c *Client, method func(context.Context, Q, ...grpc.CallOption) (A, error), request Q,
) (answer A, err error) {
	err = c.retry(ctx, 0, func(ctx context.Context) *Error {
		var trailer metadata.MD
		var err error
		answer, err = method(ctx, request, grpc.Trailer(&trailer))
		return failure(err, trailer)
	})
	return answer, err
}
