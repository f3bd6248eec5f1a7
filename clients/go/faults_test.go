package optserve_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	optserve "github.com/optserve/optserve/clients/go"
	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

// wantReason checks reason and fate of an error.
func wantReason(t *testing.T, err error, reason pb.ErrorReason) *optserve.Error {
	t.Helper()
	var failure *optserve.Error
	if !errors.As(err, &failure) || failure.Reason != reason || optserve.ReasonOf(err) != reason {
		t.Fatalf("the error is %v, not %v", err, reason)
	}
	if failure.Applied != optserve.AppliedNo {
		t.Fatalf("it is not known whether the call with %v was applied", err)
	}
	return failure
}

func TestErrorsByReason(t *testing.T) {
	ctx, client := testContext(t), connect(t, sharedServer(t))
	_, err := client.Session(ctx, "missing")
	failure := wantReason(t, err, pb.ErrorReason_ERROR_REASON_SESSION_NOT_FOUND)
	if failure.Code != codes.NotFound || failure.Metadata["name"] != "sessions/missing" || failure.RequestID == "" {
		t.Fatalf("the error is %+v", failure)
	}
	_, err = client.CreateSession(ctx, sgd(-1), []*pb.ParameterInit{optserve.Value("w", optserve.Scalar(1.0))}, nil)
	failure = wantReason(t, err, pb.ErrorReason_ERROR_REASON_OUT_OF_RANGE)
	if failure.Field != "spec.optimizer.sgd.learning_rate" {
		t.Fatalf("the field is %q", failure.Field)
	}

	session := newSession(t, client, sgd(1), 1.0, 2.0)
	step := int64(5)
	_, err = session.Step(ctx, vector(1.0, 1.0), &optserve.StepOptions{ExpectedStep: &step})
	failure = wantReason(t, err, pb.ErrorReason_ERROR_REASON_STEP_MISMATCH)
	if failure.Metadata["current"] != "0" {
		t.Fatalf("the metadata are %v", failure.Metadata)
	}
	_, err = session.Step(ctx, vector(1.0), nil)
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_SHAPE_MISMATCH)
	_, err = session.Step(ctx, optserve.Tensors{"b": optserve.Scalar(1.0)}, nil)
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_UNKNOWN_TENSOR)
	_, err = session.Step(ctx, vector[int32](1, 1), nil)
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_DTYPE_MISMATCH)
	_, err = session.Step(ctx, nil, nil)
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_FIELD_REQUIRED)
	_, err = session.Step(ctx, vector(1.0, 1.0), &optserve.StepOptions{Into: vector(1.0)})
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_SHAPE_MISMATCH)

	result, err := session.Step(ctx, vector(1.0, 1.0), nil)
	require(t, err)
	if result.GetSequence() != 1 {
		t.Fatalf("rejected steps used up a sequence: %v", result.StepResult)
	}
}

func TestDeletedSessionDuringSteps(t *testing.T) {
	ctx, client := testContext(t), connect(t, sharedServer(t))
	session := newSession(t, client, sgd(1), 1.0)
	other, err := client.Session(ctx, session.Name())
	require(t, err)
	_, err = session.Step(ctx, vector(1.0), nil)
	require(t, err)
	require(t, other.Delete(ctx))
	_, err = session.Step(ctx, vector(1.0), nil)
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_SESSION_NOT_FOUND)
}

func TestUnreachableServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require(t, err)
	address := listener.Addr().String()
	require(t, listener.Close())
	client := connect(t, address, optserve.WithTimeout(time.Second))
	begun := time.Now()
	_, err = client.Session(context.Background(), "x")
	var failure *optserve.Error
	if !errors.As(err, &failure) || failure.Code != codes.Unavailable || failure.Applied != optserve.AppliedUnknown {
		t.Fatalf("the error is %v", err)
	}
	if !strings.Contains(failure.Message, "tried") || time.Since(begun) > 5*time.Second {
		t.Fatalf("the error is %v after %v", err, time.Since(begun))
	}
}

func TestWrongTokenAndRightOne(t *testing.T) {
	tokens := filepath.Join(t.TempDir(), "tokens.toml")
	printed, err := exec.Command(python(), "-m", "optserve_server", "token",
		"--tokens-file", tokens, "--namespace", "alice", "--name", "test").Output()
	require(t, err)
	words := strings.Fields(string(printed))
	token := words[slices.IndexFunc(words, func(word string) bool { return len(word) > 20 })]
	address := startServer(t, "--tokens-file="+tokens).address

	_, err = connect(t, address, optserve.WithToken("wrong")).Session(testContext(t), "x")
	failure := wantReason(t, err, pb.ErrorReason_ERROR_REASON_UNAUTHENTICATED)
	if failure.Code != codes.Unauthenticated {
		t.Fatalf("the error is %v", err)
	}
	session := newSession(t, connect(t, address, optserve.WithToken(token)), sgd(1), 0.0)
	_, err = session.Step(testContext(t), vector(1.0), nil)
	require(t, err)

	t.Setenv("OPTSERVE_SERVER", address)
	t.Setenv("OPTSERVE_TOKEN", token)
	_, err = connect(t, "").Session(testContext(t), session.Name())
	require(t, err)
}

func TestMutualTLS(t *testing.T) {
	folder := t.TempDir()
	authority := certificates(t, folder)
	address := startServer(t, "--tls-certificate="+filepath.Join(folder, "pair.pem"),
		"--tls-key="+filepath.Join(folder, "pair.key"), "--tls-client-ca="+authority).address
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "pair.pem"), filepath.Join(folder, "pair.key"))
	require(t, err)
	trusted, err := os.ReadFile(authority)
	require(t, err)
	config := &tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}}
	config.RootCAs.AppendCertsFromPEM(trusted)
	session := newSession(t, connect(t, address, optserve.WithTLS(config)), sgd(1), 0.0)
	_, err = session.Step(testContext(t), vector(1.0), nil)
	require(t, err)

	t.Setenv("OPTSERVE_CA", authority) // trusts the server, but has no certificate
	client := connect(t, address, optserve.WithTimeout(time.Second))
	var failure *optserve.Error
	if _, err := client.Session(context.Background(), "x"); !errors.As(err, &failure) || failure.Code != codes.Unavailable {
		t.Fatalf("without a certificate: %v", err)
	}
}

// certificates writes an authority, and a pair for the loopback address that it signed.
func certificates(t *testing.T, folder string) (authority string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: template.NotBefore, NotAfter: template.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	signed, err := x509.CreateCertificate(rand.Reader, leaf, template, &key.PublicKey, key)
	require(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require(t, err)
	for name, block := range map[string]*pem.Block{
		"ca.pem":   {Type: "CERTIFICATE", Bytes: root},
		"pair.pem": {Type: "CERTIFICATE", Bytes: signed},
		"pair.key": {Type: "PRIVATE KEY", Bytes: private},
	} {
		require(t, os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(block), 0o600))
	}
	return filepath.Join(folder, "ca.pem")
}

// TestDeadlineInTheMiddleOfAStep gives up a step whose answer is late, and settles it.
func TestDeadlineInTheMiddleOfAStep(t *testing.T) {
	for name, second := range map[string]float64{"the same step": 1, "another step": 2} {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, sharedServer(t))
			session := newSession(t, connect(t, p.address()), sgd(1), 0.0)
			_, err := session.Step(testContext(t), vector(1.0), nil)
			require(t, err)
			p.stall()
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			_, err = session.Step(ctx, vector(1.0), nil)
			var failure *optserve.Error
			if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &failure) || failure.Applied != optserve.AppliedUnknown {
				t.Fatalf("the error is %v", err)
			}
			waitForStep(t, session.Name(), 2)
			p.flow()
			result, err := session.Step(testContext(t), vector(second), &optserve.StepOptions{Pull: &pb.PullOptions{}})
			require(t, err)
			w, want := optserve.Data[float64](result.Parameters["w"])[0], -2.0
			if second != 1 {
				want -= second // proved to be another step, after the one that was given up
			}
			if w != want || result.GetReplayed() != (second == 1) {
				t.Fatalf("w is %v, and the result %v", w, result.StepResult)
			}
		})
	}
}

// waitForStep waits until a session of the shared server has a step.
func waitForStep(t *testing.T, name string, step int64) {
	t.Helper()
	client := connect(t, sharedServer(t))
	for ctx := testContext(t); ; {
		found, err := client.Service.GetSession(ctx, pb.GetSessionRequest_builder{Name: name}.Build())
		require(t, err)
		if found.GetSession().GetStep() >= step {
			return
		}
	}
}

func TestCancelledWhileTheWindowIsFull(t *testing.T) {
	p := startProxy(t, sharedServer(t))
	session := newSession(t, connect(t, p.address()), sgd(1), 0.0)
	stream, err := session.Stream(&optserve.StreamOptions{Window: 2})
	require(t, err)
	defer stream.Close()
	p.stall()
	ctx, cancel := context.WithCancel(context.Background())
	var pending []*optserve.Pending
	for range 2 {
		step, err := stream.Submit(ctx, vector(1.0), nil)
		require(t, err)
		pending = append(pending, step)
	}
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := stream.Submit(ctx, vector(1.0), nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("the error is %v", err)
	}
	p.flow()
	for i, step := range pending {
		result, err := step.Result(testContext(t))
		require(t, err)
		if result.GetStep() != int64(i+1) {
			t.Fatalf("the result is %v", result.StepResult)
		}
	}
}

// TestCutConnections cuts connections at many places of a stream; the result is that of a stream
// without faults, bit for bit.
func TestCutConnections(t *testing.T) {
	const steps = 1000
	p := startProxy(t, sharedServer(t))
	want := trained(t, connect(t, sharedServer(t)), steps, func(int) {})
	got := trained(t, connect(t, p.address()), steps, func(step int) {
		if step%40 == 0 {
			p.cutNextAfter(int64(400 + 7919*step%200_000)) // within one of the next gradients
			p.cut()
		}
	})
	equal(t, "w", got, want)
}

// TestCutImport cuts the connection in the middle of a file.
func TestCutImport(t *testing.T) {
	p := startProxy(t, sharedServer(t))
	client, ctx := connect(t, p.address()), testContext(t)
	session := newSession(t, connect(t, sharedServer(t)), sgd(1), make([]float32, 1<<20)...)
	var file bytes.Buffer
	_, err := connect(t, sharedServer(t)).Export(ctx, session.Name(), &file)
	require(t, err)
	p.cutNextAfter(3 << 20)
	imported, err := client.Import(ctx, bytes.NewReader(file.Bytes()), pb.ImportHeader_builder{SessionId: "cut"}.Build())
	require(t, err)
	if got := imported.Layout()[0].GetByteCount(); imported.Name() != "sessions/cut" || got != 4<<20 {
		t.Fatalf("%s has %d bytes", imported.Name(), got)
	}
	require(t, imported.Delete(ctx))
	require(t, session.Delete(ctx))
	_, err = client.Import(ctx, bytes.NewReader(file.Bytes()[:1000]), nil)
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_SNAPSHOT_MALFORMED)
}

// TestKilledServer kills a server at every failpoint of a step, and starts another on its journal.
func TestKilledServer(t *testing.T) {
	const steps = 12
	want := trained(t, connect(t, sharedServer(t)), steps, func(int) {})
	for _, failpoint := range []string{"before-journal-write", "after-journal-fsync", "after-apply", "before-ack", "after-ack"} {
		t.Run(failpoint, func(t *testing.T) {
			data := "--data-dir=" + filepath.Join(t.TempDir(), "data")
			first := startServer(t, data, "OPTSERVE_FAILPOINT="+failpoint+":7")
			p := startProxy(t, first.address)
			restarted := make(chan struct{})
			go func() {
				defer close(restarted)
				<-first.ended
				p.route(startServer(t, data).address)
			}()
			got := trained(t, connect(t, p.address()), steps, func(int) {})
			equal(t, "w", got, want)
			select {
			case <-restarted:
			case <-time.After(testTimeout):
				t.Fatal("the server was not killed")
			}
		})
	}
}

// trained takes steps in a session of its own, several in flight, and returns the parameters.
func trained(t *testing.T, client *optserve.Client, steps int, before func(step int)) []float32 {
	t.Helper()
	const elements = 3000
	session := newSession(t, client, adam(), make([]float32, elements)...)
	stream, err := session.Stream(&optserve.StreamOptions{Window: 3})
	require(t, err)
	defer stream.Close()
	ctx := testContext(t)
	var pending []*optserve.Pending
	for step := range steps {
		before(step)
		gradient := make([]float32, elements)
		for i := range gradient {
			gradient[i] = float32((step*31+i*17)%101) - 50
		}
		next, err := stream.Submit(ctx, vector(gradient...), &optserve.StepOptions{Pull: &pb.PullOptions{}})
		require(t, err)
		pending = append(pending, next)
	}
	for i, step := range pending {
		result, err := step.Result(ctx)
		require(t, err)
		if result.GetStep() != int64(i+1) {
			t.Fatalf("step %d has the result %v", i+1, result.StepResult)
		}
	}
	found, err := session.Pull(ctx, nil, nil)
	require(t, err)
	if found.Step != int64(steps) {
		t.Fatalf("the session is at step %d, not %d", found.Step, steps)
	}
	return optserve.Data[float32](found.Tensors["w"])
}

// TestServerWithoutTheLastSteps goes on where the server does, after a crash has lost steps.
// TestServerIsBack starts a server again on its port: gRPC's own pauses between connections grow to minutes.
func TestServerIsBack(t *testing.T) {
	data := "--data-dir=" + t.TempDir()
	first := startServer(t, data)
	session := newSession(t, connect(t, first.address), sgd(1), 0.0)
	_, err := session.Step(testContext(t), vector(1.0), nil)
	require(t, err)
	first.kill()
	answered := make(chan error, 1)
	go func() {
		result, err := session.Step(testContext(t), vector(1.0), nil)
		if err == nil && result.GetStep() != 2 {
			err = fmt.Errorf("the result is %v", result.StepResult)
		}
		answered <- err
	}()
	startServer(t, data, "--port="+first.address[strings.LastIndex(first.address, ":")+1:])
	select {
	case err := <-answered:
		require(t, err)
	case <-time.After(3 * time.Second):
		t.Fatal("no step 3 s after the server listens")
	}
}

func TestServerWithoutTheLastSteps(t *testing.T) {
	data := "--data-dir=" + filepath.Join(t.TempDir(), "data")
	first := startServer(t, data, "--durability=snapshot")
	p := startProxy(t, first.address)
	client := connect(t, p.address())
	session := newSession(t, client, sgd(1), 0.0)
	_, err := session.Step(testContext(t), vector(1.0), nil)
	require(t, err)
	_, err = client.Service.CreateSnapshot(testContext(t), pb.CreateSnapshotRequest_builder{Name: session.Name()}.Build())
	require(t, err)
	for range 3 {
		_, err = session.Step(testContext(t), vector(1.0), nil)
		require(t, err)
	}
	first.kill()
	p.route(startServer(t, data, "--durability=snapshot").address)
	_, err = session.Step(testContext(t), vector(1.0), nil)
	wantReason(t, err, pb.ErrorReason_ERROR_REASON_SEQUENCE_GAP)
	result, err := session.Step(testContext(t), vector(1.0), nil)
	require(t, err)
	if result.GetStep() != 2 || result.GetSequence() != 2 {
		t.Fatalf("the result is %v", result.StepResult)
	}
}

func TestClosedClient(t *testing.T) {
	client := connect(t, sharedServer(t))
	session := newSession(t, client, sgd(1), 0.0)
	require(t, client.Close())
	if _, err := session.Step(testContext(t), vector(1.0), nil); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Fatalf("the error is %v", err)
	}
}
