//go:build !race

package optserve_test

import (
	"runtime"
	"testing"

	optserve "github.com/optserve/optserve/clients/go"
)

// TestMemoryOfLargeSteps bounds what a step allocates besides the caller's slices, garbage included.
// The race detector empties gRPC's pools of buffers at random, so this test runs without it.
func TestMemoryOfLargeSteps(t *testing.T) {
	const elements, steps = 8 << 20, 4 // 32 MiB each way
	client := connect(t, sharedServer(t))
	session := newSession(t, client, sgd(1), make([]float32, elements)...)
	gradients, into := vector(make([]float32, elements)...), vector(make([]float32, elements)...)
	var before, after runtime.MemStats
	for step := range 1 + steps {
		if step == 1 { // the first one fills the pools
			runtime.ReadMemStats(&before)
		}
		_, err := session.Step(testContext(t), gradients, &optserve.StepOptions{Into: into})
		require(t, err)
	}
	runtime.ReadMemStats(&after)
	if allocated := (after.TotalAlloc - before.TotalAlloc) / steps; allocated > 2<<20 {
		t.Errorf("a step allocates %d bytes, which are more than two chunks", allocated)
	}
	require(t, session.Delete(testContext(t)))
}
