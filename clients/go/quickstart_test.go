package optserve_test

import (
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestQuickstart compares the table of the quickstart with what the Python demo computes.
func TestQuickstart(t *testing.T) {
	const epochs = "25"
	address := sharedServer(t)
	program := exec.Command("go", "run", "./examples/quickstart", "-server", address, "-epochs", epochs)
	program.Stderr = os.Stderr
	printed, err := program.Output()
	require(t, err)
	demo := exec.Command(python(), "-c", `
import sys, optserve
from demo import iris
with optserve.connect(sys.argv[1]) as client:
    for run in iris.train_all(client, int(sys.argv[2])):
        print(run.optimizer, run.losses[-1], 100*run.accuracies[-1])
`, address, epochs)
	demo.Env = append(os.Environ(), "PYTHONPATH=../../examples")
	demo.Stderr = os.Stderr
	expected, err := demo.Output()
	require(t, err)

	got, want := strings.Split(strings.TrimSpace(string(printed)), "\n")[1:], strings.Split(strings.TrimSpace(string(expected)), "\n")
	if len(got) != 5 || len(want) != 5 {
		t.Fatalf("the tables are\n%s\n%s", printed, expected)
	}
	for i := range want {
		g, w, loss, accuracy := strings.Fields(got[i]), strings.Fields(want[i]), 1e-6, 0.06
		if w[0] == "RMSProp" {
			// Its first steps amplify rounding, and the order of NumPy's sums depends on the processor.
			loss, accuracy = 0.1, 50
		}
		if g[0] != w[0] || math.Abs(number(t, g[1])-number(t, w[1])) > loss || math.Abs(number(t, g[2])-number(t, w[2])) > accuracy {
			t.Errorf("%s\nwhere the Python demo has\n%s", got[i], want[i])
		}
	}
}

// TestWorkersExample trains with four workers until the parameters are the true ones.
func TestWorkersExample(t *testing.T) {
	program := exec.Command("go", "run", "./examples/workers", "-server", sharedServer(t), "-workers", "4")
	program.Stderr = os.Stderr
	printed, err := program.Output()
	require(t, err)
	if !strings.HasSuffix(string(printed), "step 60: w = [1.000 -2.000 0.500], true [1.000 -2.000 0.500]\n") {
		t.Errorf("it printed\n%s", printed)
	}
}

func number(t *testing.T, text string) float64 {
	t.Helper()
	value, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	require(t, err)
	return value
}
