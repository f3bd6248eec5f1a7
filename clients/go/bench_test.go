package optserve_test

import (
	"fmt"
	"testing"

	optserve "github.com/optserve/optserve/clients/go"
)

// BenchmarkStep takes steps that send a gradient and fill the caller's parameters.
func BenchmarkStep(b *testing.B) {
	client := connect(b, startServer(b, "--backend=auto").address)
	for _, elements := range []int{1e4, 1e6, 25e6} {
		b.Run(fmt.Sprint(elements), func(b *testing.B) {
			session := newSession(b, client, sgd(0.1), make([]float32, elements)...)
			gradients, into := vector(make([]float32, elements)...), vector(make([]float32, elements)...)
			options := &optserve.StepOptions{Into: into}
			b.SetBytes(int64(8 * elements))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := session.Step(b.Context(), gradients, options); err != nil {
					b.Fatal(err)
				}
			}
			if err := session.Delete(testContext(b)); err != nil {
				b.Fatal(err)
			}
		})
	}
}
