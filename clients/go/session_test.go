package optserve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	optserve "github.com/optserve/optserve/clients/go"
	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

func require(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s is %v, not %v", what, got, want)
	}
}

func TestStepFillsTheCallersSlice(t *testing.T) {
	client := connect(t, sharedServer(t))
	session := newSession(t, client, sgd(0.5), float32(1), 2)
	w := make([]float32, 2)
	result, err := session.Step(testContext(t), vector[float32](3, 4), &optserve.StepOptions{
		Into: optserve.Tensors{"w": optserve.NewTensor(w)}, PerTensorNorms: true,
	})
	require(t, err)
	equal(t, "w", w, []float32{-0.5, 0})
	if result.GetStep() != 1 || result.GetGradientNorm() != 5 || result.GetTensorNorms()[0].GetNorm() != 5 {
		t.Fatalf("the result is %v", result.StepResult)
	}
}

func TestStepWithoutPullReturnsNoParameters(t *testing.T) {
	session := newSession(t, connect(t, sharedServer(t)), sgd(0.5), 1.0, 2.0)
	result, err := session.Step(testContext(t), vector(3.0, 4.0), nil)
	require(t, err)
	if result.Parameters != nil {
		t.Fatalf("there are parameters: %v", result.Parameters)
	}
}

func TestStepOptions(t *testing.T) {
	session := newSession(t, connect(t, sharedServer(t)), sgd(0.5), 1.0, 2.0)
	pull := &pb.PullOptions{}
	result, err := session.Step(testContext(t), vector(8.0, 8.0), &optserve.StepOptions{
		Pull: pull, LossScale: proto.Float64(8), ExpectedStep: proto.Int64(0),
		Overrides: []*pb.HyperparameterOverride{
			pb.HyperparameterOverride_builder{Name: "learning_rate", Value: 0.25}.Build(),
		},
	})
	require(t, err)
	equal(t, "w", optserve.Data[float64](result.Parameters["w"]), []float64{0.75, 1.75})
	result, err = session.Step(testContext(t), vector(8.0, 8.0), &optserve.StepOptions{Pull: pull, ValidateOnly: true})
	require(t, err)
	if result.GetOutcome() != pb.StepOutcome_STEP_OUTCOME_VALIDATED || result.ParametersStep != 1 {
		t.Fatalf("the result is %v", result.StepResult)
	}
	result, err = session.Step(testContext(t), nil, &optserve.StepOptions{Pull: pull, Sparse: []*pb.SparseRows{pb.SparseRows_builder{
		Name:    "w",
		Indices: optserve.NewTensor([]int64{1, 1}).Message(), Values: optserve.NewTensor([]float64{1, 1}).Message(),
	}.Build()}})
	require(t, err)
	equal(t, "w", optserve.Data[float64](result.Parameters["w"]), []float64{0.75, 0.75})
}

func TestHalfPrecisionOnTheWire(t *testing.T) {
	session := newSession(t, connect(t, sharedServer(t)), sgd(1), float32(0), 0)
	for _, wire := range []pb.DataType{pb.DataType_DATA_TYPE_FLOAT16, pb.DataType_DATA_TYPE_BFLOAT16} {
		result, err := session.Step(testContext(t), vector[float32](-1.5, 1.0009765625), &optserve.StepOptions{
			WireDType: wire, Pull: pb.PullOptions_builder{WireDtype: wire}.Build(),
		})
		require(t, err)
		if w := optserve.Data[float32](result.Parameters["w"]); len(w) != 2 || w[0] <= 0 || w[1] >= 0 {
			t.Fatalf("w is %v", w)
		}
	}
	exact, err := session.Pull(testContext(t), nil, nil)
	require(t, err)
	// 1.0009765625 is exact in float16 and 1 in bfloat16.
	equal(t, "w", optserve.Data[float32](exact.Tensors["w"]), []float32{3, -2.0009765625})
}

// TestLargeStepsOfManyTensors sends tensors of several types that are cut by chunks at odd places.
func TestLargeStepsOfManyTensors(t *testing.T) {
	const size = 300_007
	client := connect(t, sharedServer(t))
	var parameters []*pb.ParameterInit
	gradients, want := optserve.Tensors{}, map[string][]float32{}
	for i := range 9 {
		name := fmt.Sprintf("t%d", i)
		gradient := make([]float32, size+i)
		for j := range gradient {
			gradient[j] = float32((i+1)*(j%1021)) / 512
		}
		want[name] = gradient
		gradients[name] = optserve.NewTensor(gradient)
		value := optserve.NewTensor(make([]float32, size+i))
		if i%3 == 1 {
			value = optserve.NewTensor(make([]float64, size+i))
		}
		parameters = append(parameters, optserve.Value(name, value))
	}
	session, err := client.CreateSession(testContext(t), sgd(1), parameters, nil)
	require(t, err)
	defer session.Delete(testContext(t))
	into := optserve.Tensors{"t1": optserve.NewTensor(make([]float32, size+1))} // float64 at the server
	result, err := session.Step(testContext(t), gradients, &optserve.StepOptions{Into: into})
	require(t, err)
	for name, gradient := range want {
		got := result.Parameters[name]
		for j, slope := range gradient {
			var w float32
			if got.DType() == pb.DataType_DATA_TYPE_FLOAT64 {
				w = float32(optserve.Data[float64](got)[j])
			} else {
				w = optserve.Data[float32](got)[j]
			}
			if w != -slope {
				t.Fatalf("%s[%d] is %v, not %v", name, j, w, -slope)
			}
		}
	}
}

func TestStreamAnswersInOrder(t *testing.T) {
	session := newSession(t, connect(t, sharedServer(t)), sgd(1), 0.0)
	stream, err := session.Stream(&optserve.StreamOptions{Window: 4})
	require(t, err)
	defer stream.Close()
	var pending []*optserve.Pending
	for i := range 20 {
		p, err := stream.Submit(testContext(t), vector(float64(i)), &optserve.StepOptions{Pull: &pb.PullOptions{}})
		require(t, err)
		pending = append(pending, p)
	}
	sum := 0.0
	for i, p := range pending {
		result, err := p.Result(testContext(t))
		require(t, err)
		sum -= float64(i)
		if w := optserve.Data[float64](result.Parameters["w"]); result.GetStep() != int64(i+1) || w[0] != sum {
			t.Fatalf("step %d: %v, %v", i+1, result.StepResult, w)
		}
	}
}

func TestStreamAfterARejectedStep(t *testing.T) {
	session := newSession(t, connect(t, sharedServer(t)), sgd(1), 0.0)
	stream, err := session.Stream(nil)
	require(t, err)
	defer stream.Close()
	bad, err := stream.Submit(testContext(t), vector(math.NaN()), nil)
	require(t, err)
	behind, err := stream.Submit(testContext(t), vector(1.0), nil)
	require(t, err)
	_, err = bad.Result(testContext(t))
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_NON_FINITE_GRADIENT)
	_, err = behind.Result(testContext(t))
	var abandoned *optserve.Error
	if !errors.As(err, &abandoned) || abandoned.Code != codes.Aborted || abandoned.Applied != optserve.AppliedNo {
		t.Fatalf("the step behind has %v", err)
	}
	result, err := stream.Step(testContext(t), vector(1.0), nil)
	require(t, err)
	if result.GetStep() != 1 || result.GetSequence() != 1 {
		t.Fatalf("the result is %v", result.StepResult)
	}
}

func TestNamedWorkerContinues(t *testing.T) {
	client := connect(t, sharedServer(t))
	session := newSession(t, client, sgd(1), 0.0)
	for i := range 3 {
		handle, err := client.Session(testContext(t), session.Name())
		require(t, err)
		stream, err := handle.Stream(&optserve.StreamOptions{Worker: "trainer"})
		require(t, err)
		result, err := stream.Step(testContext(t), vector(1.0), nil)
		require(t, err)
		if result.GetSequence() != uint64(i+1) {
			t.Fatalf("sequence %d of start %d", result.GetSequence(), i)
		}
		require(t, stream.Close())
	}
}

func TestPushPullAndNewerThan(t *testing.T) {
	session := newSession(t, connect(t, sharedServer(t)), sgd(1), 0.0, 0.0)
	_, err := session.Push(testContext(t), vector[float32](1, 2), pb.PushHeader_builder{
		ResetState: true, ExpectedStep: proto.Int64(0),
	}.Build())
	require(t, err)
	w := make([]float64, 2)
	found, err := session.Pull(testContext(t), nil, optserve.Tensors{"w": optserve.NewTensor(w)})
	require(t, err)
	equal(t, "w", w, []float64{1, 2})
	if found.Step != 0 {
		t.Fatalf("the answer is %+v", found)
	}
	found, err = session.Pull(testContext(t), pb.PullParametersRequest_builder{IfNewerThanStep: proto.Int64(0)}.Build(), nil)
	require(t, err)
	if found.Tensors != nil {
		t.Fatalf("the answer is %+v", found)
	}
	_, err = session.Push(testContext(t), vector(1.0, 2.0), pb.PushHeader_builder{ExpectedStep: proto.Int64(7)}.Build())
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_STEP_MISMATCH)
}

func TestRequestIDMakesAChangeIdempotent(t *testing.T) {
	spec := sgd(1)
	spec.SetReduceOnPlateau(pb.ReduceOnPlateauSpec_builder{Patience: proto.Int32(5)}.Build())
	client := connect(t, sharedServer(t))
	session := newSession(t, client, spec, 0.0)
	request := pb.ReportMetricsRequest_builder{
		Name: session.Name(), Metrics: []*pb.Metric{pb.Metric_builder{Name: "val_loss", Value: proto.Float64(1)}.Build()},
	}.Build()
	for _, id := range []string{"evaluation 1", "evaluation 1", "evaluation 1", ""} {
		request.SetRequestId(id)
		_, err := client.Service.ReportMetrics(testContext(t), request)
		require(t, err)
	}
	report, err := client.Service.ReportMetrics(testContext(t), request) // another change, by the same message
	require(t, err)
	if waited := report.GetReduceOnPlateau().GetWaited(); waited != 2 || request.GetRequestId() != "" {
		t.Fatalf("%d reports without improvement, not 2", waited)
	}
}

func TestUpdate(t *testing.T) {
	client := connect(t, sharedServer(t))
	session := newSession(t, client, adam(), 0.0)
	_, err := session.Step(testContext(t), vector(1.0), nil)
	require(t, err)
	answer, err := client.Service.UpdateSession(testContext(t), pb.UpdateSessionRequest_builder{
		Name: session.Name(), Spec: sgd(0.5), ExpectedStep: proto.Int64(1),
	}.Build())
	require(t, err)
	if dropped := answer.GetTransfers()[0].GetDropped(); len(dropped) != 2 {
		t.Fatalf("dropped %v", dropped)
	}
}

func TestSnapshots(t *testing.T) {
	ctx, client := testContext(t), connect(t, sharedServer(t))
	session := newSession(t, client, sgd(1), 0.0)
	step := func(s *optserve.Session) float64 {
		result, err := s.Step(ctx, vector(1.0), &optserve.StepOptions{Pull: &pb.PullOptions{}})
		require(t, err)
		return optserve.Data[float64](result.Parameters["w"])[0]
	}
	step(session)
	created, err := client.Service.CreateSnapshot(ctx, pb.CreateSnapshotRequest_builder{Name: session.Name()}.Build())
	require(t, err)
	snapshot := created.GetSnapshot()
	step(session)
	step(session)
	all, err := client.Service.ListSnapshots(ctx, pb.ListSnapshotsRequest_builder{Name: session.Name()}.Build())
	require(t, err)
	if !slices.ContainsFunc(all.GetSnapshots(), func(s *pb.Snapshot) bool { return s.GetName() == snapshot.GetName() }) {
		t.Fatalf("the snapshots are %v", all)
	}
	fork := func(name string) *optserve.Session {
		answer, err := client.Service.ForkSession(ctx, pb.ForkSessionRequest_builder{Name: name}.Build())
		require(t, err)
		handle, err := client.Session(ctx, answer.GetSession().GetName())
		require(t, err)
		return handle
	}
	if w := step(fork(snapshot.GetName())); w != -2 {
		t.Fatalf("the fork is at %v", w)
	}
	restored, err := client.Service.RestoreSnapshot(ctx, pb.RestoreSnapshotRequest_builder{
		Name: snapshot.GetName(), ExpectedStep: proto.Int64(3),
	}.Build())
	require(t, err)
	if w := step(session); restored.GetSession().GetStep() != 1 || w != -2 {
		t.Fatalf("restored to %v, then %v", restored, w)
	}
	var file bytes.Buffer
	at, err := client.Export(ctx, session.Name(), &file)
	require(t, err)
	imported, err := client.Import(ctx, bytes.NewReader(file.Bytes()), pb.ImportHeader_builder{SessionId: "imported"}.Build())
	require(t, err)
	if w := step(imported); at != 2 || w != -3 || imported.Name() != "sessions/imported" {
		t.Fatalf("exported at step %d, then %v", at, w)
	}
	var older bytes.Buffer
	_, err = client.Export(ctx, snapshot.GetName(), &older)
	require(t, err)
	if w := step(fork(session.Name())); w != -3 || older.Len() == 0 {
		t.Fatalf("the copy is at %v", w)
	}
	_, err = client.Service.DeleteSnapshot(ctx, pb.DeleteSnapshotRequest_builder{Name: snapshot.GetName()}.Build())
	require(t, err)
	missing := pb.RestoreSnapshotRequest_builder{Name: session.Name() + "/snapshots/77"}.Build()
	_, err = client.Service.RestoreSnapshot(ctx, missing)
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_SNAPSHOT_NOT_FOUND)
}

func TestWatch(t *testing.T) {
	client := connect(t, sharedServer(t))
	session := newSession(t, client, sgd(1), 0.0)
	var seen []string
	request := pb.WatchSessionRequest_builder{Name: session.Name()}.Build()
	events, err := client.Service.WatchSession(testContext(t), request)
	require(t, err)
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require(t, err)
		switch event.WhichEvent() {
		case pb.WatchSessionResponse_Began_case:
			seen = append(seen, "began")
			_, err := session.Step(testContext(t), vector(1.0), nil)
			require(t, err)
		case pb.WatchSessionResponse_Step_case:
			seen = append(seen, "step")
			require(t, session.Delete(testContext(t)))
		case pb.WatchSessionResponse_Deleted_case:
			seen = append(seen, "deleted")
		}
	}
	equal(t, "what was seen", seen, []string{"began", "step", "deleted"})
	events, err = client.Service.WatchSession(testContext(t), request)
	require(t, err)
	_, err = events.Recv()
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_SESSION_NOT_FOUND)
}

func TestListSessions(t *testing.T) {
	client := connect(t, sharedServer(t))
	made := newSession(t, client, sgd(1), 0.0)
	page, err := client.Service.ListSessions(testContext(t), pb.ListSessionsRequest_builder{PageSize: 1000}.Build())
	require(t, err)
	if !slices.ContainsFunc(page.GetSessions(), func(s *pb.Session) bool { return s.GetName() == made.Name() }) {
		t.Fatalf("the sessions are %v", page)
	}
}

// TestMembers has two workers in a synchronous session, one of which is fenced.
func TestMembers(t *testing.T) {
	ctx, client := testContext(t), connect(t, sharedServer(t))
	spec := sgd(1)
	spec.SetCoordination(pb.CoordinationSpec_builder{Sync: &pb.CoordinationSync{}}.Build())
	made := newSession(t, client, spec, 0.0)
	_, err := made.Step(ctx, vector(1.0), nil)
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_NOT_A_MEMBER)
	var workers []*optserve.Session
	for rank, name := range []string{"a", "b"} {
		worker, err := client.SessionAs(ctx, made.Name(), name)
		require(t, err)
		joined, err := worker.Join(ctx, time.Minute)
		require(t, err)
		if joined.GetRank() != int32(rank) || joined.GetLeaseSeconds() != 60 {
			t.Fatalf("joined as %v", joined)
		}
		workers = append(workers, worker)
	}
	failures := make(chan error, len(workers))
	for i, worker := range workers {
		go func() {
			for range 3 {
				if _, err := worker.Step(ctx, vector(float64(1+i)), &optserve.StepOptions{Pull: &pb.PullOptions{}}); err != nil {
					failures <- err
					return
				}
			}
			failures <- nil
		}()
	}
	for range workers {
		require(t, <-failures)
	}
	found, err := made.Pull(ctx, nil, nil)
	require(t, err)
	equal(t, "w", optserve.Data[float64](found.Tensors["w"]), []float64{-4.5})

	elsewhere, err := client.SessionAs(ctx, made.Name(), "a")
	require(t, err)
	_, err = elsewhere.Join(ctx, 0)
	require(t, err)
	_, err = workers[0].Step(ctx, vector(1.0), nil)
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_FENCED)
	require(t, workers[1].Leave(ctx))
	result, err := elsewhere.Step(ctx, vector(1.0), nil)
	require(t, err)
	if result.GetStep() != 4 || result.GetSequence() != 4 {
		t.Fatalf("the result is %v", result.StepResult)
	}
	listed, err := client.Workers.ListWorkers(ctx, pb.ListWorkersRequest_builder{Session: made.Name()}.Build())
	require(t, err)
	if workers := listed.GetWorkers(); len(workers) != 2 || workers[0].GetState() != pb.WorkerState_WORKER_STATE_ACTIVE {
		t.Fatalf("the workers are %v", workers)
	}
}

func TestFunctions(t *testing.T) {
	ctx, functions := testContext(t), connect(t, sharedServer(t)).Functions
	rates, err := functions.EvaluateSchedule(ctx, pb.EvaluateScheduleRequest_builder{
		Schedule: pb.ScheduleSpec_builder{Constant: pb.ConstantScheduleSpec_builder{Value: proto.Float64(0.5)}.Build()}.Build(),
		Steps:    pb.StepList_builder{Steps: []int64{3, 1}}.Build(),
	}.Build())
	require(t, err)
	equal(t, "the rates", elements[float64](t, rates.GetValues()), []float64{0.5, 0.5})

	x := optserve.NewTensor([]float32{-1, 2, 3, -4}, 2, 2).Message()
	activation, err := functions.ComputeActivation(ctx, pb.ComputeActivationRequest_builder{
		Activation: pb.ActivationSpec_builder{Relu: &pb.ReluSpec{}}.Build(), Input: x,
	}.Build())
	require(t, err)
	y := activation.GetOutput()
	equal(t, "the output", elements[float32](t, y), []float32{0, 2, 3, 0})
	equal(t, "the shape", y.GetShape(), []int64{2, 2})
	gradient, err := functions.ComputeActivationGradient(ctx, pb.ComputeActivationGradientRequest_builder{
		Activation: pb.ActivationSpec_builder{Prelu: &pb.PreluSpec{}}.Build(),
		Input:      x, OutputGradient: x, Slope: optserve.Scalar[float32](0.5).Message(),
	}.Build())
	require(t, err)
	equal(t, "the gradient", elements[float32](t, gradient.GetInputGradient()), []float32{-0.5, 2, 3, -2})
	equal(t, "the slope's gradient", elements[float32](t, gradient.GetSlopeGradient()), []float32{17})

	found, err := functions.ComputeLoss(ctx, pb.ComputeLossRequest_builder{
		Loss:       pb.LossSpec_builder{MeanSquaredError: &pb.MeanSquaredErrorSpec{}}.Build(),
		Prediction: x, Target: y, Gradient: true, PerExample: true,
	}.Build())
	require(t, err)
	if found.GetValue() != 4.25 || !found.HasPerExample() || len(elements[float32](t, found.GetGradient())) != 4 {
		t.Fatalf("the loss is %v", found)
	}
	_, err = functions.ComputeLoss(ctx, pb.ComputeLossRequest_builder{Prediction: x, Target: y}.Build())
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_FIELD_REQUIRED)

	estimate, err := functions.EstimateComplexity(ctx, pb.EstimateComplexityRequest_builder{
		Network: pb.NetworkSpec_builder{
			InputShape: []int64{4},
			Layers:     []*pb.LayerSpec{pb.LayerSpec_builder{Dense: pb.DenseSpec_builder{Units: proto.Int32(3)}.Build()}.Build()},
		}.Build(),
	}.Build())
	require(t, err)
	if parameters := estimate.GetTotal().GetTrainableParameters(); parameters != 15 {
		t.Fatalf("%d parameters", parameters)
	}
}

// elements returns the elements of a tensor in the contract's form.
func elements[T optserve.Element](t *testing.T, message *pb.Tensor) []T {
	t.Helper()
	tensor, err := optserve.FromMessage(message)
	require(t, err)
	return optserve.Data[T](tensor)
}

func TestInitializers(t *testing.T) {
	client := connect(t, sharedServer(t))
	session, err := client.CreateSession(testContext(t), sgd(1), []*pb.ParameterInit{
		optserve.Initialized("w", pb.InitializerSpec_builder{
			TruncatedNormal: pb.TruncatedNormalSpec_builder{Stddev: proto.Float64(0.1)}.Build(),
		}.Build(), 4, 3),
	}, &optserve.SessionOptions{Seed: 7})
	require(t, err)
	found, err := session.Pull(testContext(t), nil, nil)
	require(t, err)
	w := optserve.Data[float32](found.Tensors["w"])
	equal(t, "the shape", found.Tensors["w"].Shape(), []int{4, 3})
	if slices.Max(w) == slices.Min(w) {
		t.Fatalf("w is %v", w)
	}
}

// TestCloseLeavesNoGoroutines looks for the client's own code in what still runs.
func TestCloseLeavesNoGoroutines(t *testing.T) {
	client := connect(t, sharedServer(t))
	session := newSession(t, client, sgd(1), 0.0)
	stream, err := session.Stream(nil)
	require(t, err)
	for range 10 {
		_, err := stream.Submit(testContext(t), vector(1.0), nil)
		require(t, err)
	}
	require(t, stream.Close())
	require(t, session.Close())
	require(t, client.Close())
	stacks := ""
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		buffer := make([]byte, 1<<20)
		stacks = string(buffer[:runtime.Stack(buffer, true)])
		if !strings.Contains(stacks, "optserve/clients/go.") {
			return
		}
	}
	t.Fatalf("still running:\n%s", stacks)
}

func TestConcurrentUse(t *testing.T) {
	client := connect(t, sharedServer(t))
	session := newSession(t, client, sgd(1), 0.0)
	stream, err := session.Stream(nil)
	require(t, err)
	defer stream.Close()
	failed := make(chan error, 8)
	for i := range 8 {
		step := session.Step
		if i%2 == 0 {
			step = stream.Step
		}
		go func() {
			var err error
			for range 10 {
				if _, e := step(context.Background(), vector(1.0), nil); e != nil {
					err = e
				}
			}
			failed <- err
		}()
	}
	for range 8 {
		require(t, <-failed)
	}
	found, err := session.Pull(testContext(t), nil, nil)
	require(t, err)
	equal(t, "w", optserve.Data[float64](found.Tensors["w"]), []float64{-80})
}
