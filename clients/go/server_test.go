package optserve_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	optserve "github.com/optserve/optserve/clients/go"
	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

const (
	readyTimeout = time.Minute
	testTimeout  = time.Minute
)

// server is a real server in a process of its own, on a free loopback port.
type server struct {
	address string
	process *exec.Cmd
	ended   chan struct{}
}

// startServer starts a server, and stops it at the end of the test. Settings are flags, or, in
// capitals, environment variables.
func startServer(t testing.TB, settings ...string) *server {
	t.Helper()
	folder := t.TempDir()
	portFile := filepath.Join(folder, "port")
	log, err := os.Create(filepath.Join(folder, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	command := exec.Command(python(), "-m", "optserve_server",
		"--port=0", "--port-file="+portFile, "--metrics-port=off", "--backend=numpy", "--data-port=off")
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "OPTSERVE_") {
			command.Env = append(command.Env, variable)
		}
	}
	for _, setting := range settings {
		if strings.HasPrefix(setting, "--") {
			command.Args = append(command.Args, setting)
		} else {
			command.Env = append(command.Env, setting)
		}
	}
	command.Stderr = log
	if err := command.Start(); err != nil {
		t.Fatalf("no server: %v; run make .venv/.test, or name a Python with OPTSERVE_PYTHON", err)
	}
	s := &server{process: command, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		_ = command.Wait()
	}()
	t.Cleanup(s.kill)
	for deadline := time.Now().Add(readyTimeout); ; {
		if port, err := os.ReadFile(portFile); err == nil && len(port) > 0 {
			s.address = "127.0.0.1:" + strings.TrimSpace(string(port))
			return s
		}
		select {
		case <-s.ended:
		case <-time.After(10 * time.Millisecond):
			if time.Now().Before(deadline) {
				continue
			}
		}
		said, _ := os.ReadFile(log.Name())
		t.Fatalf("the server did not start: %s", said)
	}
}

// python is the interpreter that has the server: OPTSERVE_PYTHON, or the repository's own.
func python() string {
	if path := os.Getenv("OPTSERVE_PYTHON"); path != "" {
		return path
	}
	return filepath.Join("..", "..", ".venv", "bin", "python")
}

// kill ends the server at once, as a crash does.
func (s *server) kill() {
	_ = s.process.Process.Kill()
	<-s.ended
}

var shared struct {
	sync.Mutex
	server *server
	folder string
}

// sharedServer returns the address of a server that all tests use; it has a data directory.
func sharedServer(t *testing.T) string {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		// The server outlives this test; TestMain stops it.
		shared.server = startServer(lasting{t}, "--data-dir="+filepath.Join(shared.folder, "data"))
	}
	return shared.server.address
}

// lasting is a test whose server is stopped by TestMain.
type lasting struct{ testing.TB }

func (lasting) Cleanup(func())  {}
func (lasting) TempDir() string { return shared.folder }

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if shared.folder, err = os.MkdirTemp("", "optserve-go"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(shared.folder)
		defer func() {
			if shared.server != nil {
				shared.server.kill()
			}
		}()
		return m.Run()
	}())
}

func connect(t testing.TB, address string, options ...optserve.Option) *optserve.Client {
	t.Helper()
	client, err := optserve.Connect(address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

func sgd(rate float64) *pb.SessionSpec {
	return pb.SessionSpec_builder{
		Optimizer: pb.OptimizerSpec_builder{Sgd: pb.SgdSpec_builder{LearningRate: proto.Float64(rate)}.Build()}.Build(),
	}.Build()
}

func adam() *pb.SessionSpec {
	return pb.SessionSpec_builder{
		Optimizer: pb.OptimizerSpec_builder{Adam: pb.AdamSpec_builder{LearningRate: proto.Float64(0.01)}.Build()}.Build(),
	}.Build()
}

// newSession creates a session with one parameter "w".
func newSession[T optserve.Element](t testing.TB, client *optserve.Client, spec *pb.SessionSpec, w ...T) *optserve.Session {
	t.Helper()
	parameters := []*pb.ParameterInit{optserve.Value("w", optserve.NewTensor(w))}
	session, err := client.CreateSession(testContext(t), spec, parameters, nil)
	if err != nil {
		t.Fatal(err)
	}
	return session
}

func vector[T optserve.Element](elements ...T) optserve.Tensors {
	return optserve.Tensors{"w": optserve.NewTensor(elements)}
}

// proxy passes connections on to a server, and fails as a network does.
type proxy struct {
	listener net.Listener
	mutex    sync.Mutex
	upstream string
	open     map[net.Conn]bool
	cutAfter int64         // bytes to the server after which a connection is cut; 0 for never
	stalled  chan struct{} // open while answers are held back; nil if they are not
}

func startProxy(t testing.TB, upstream string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, upstream: upstream, open: map[net.Conn]bool{}}
	t.Cleanup(func() {
		listener.Close()
		p.flow()
		p.cut()
	})
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(client)
		}
	}()
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	p.mutex.Lock()
	upstream, limit := p.upstream, p.cutAfter
	p.cutAfter = 0
	p.mutex.Unlock()
	server, err := net.Dial("tcp", upstream)
	if err != nil {
		return
	}
	defer server.Close()
	p.mutex.Lock()
	p.open[client], p.open[server] = true, true
	p.mutex.Unlock()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		defer client.Close()
		_, _ = io.Copy(held{p, client}, server)
	}()
	var source io.Reader = client
	if limit > 0 {
		source = io.LimitReader(client, limit)
	}
	_, _ = io.Copy(server, source)
	server.Close()
	<-answered
}

// held writes answers unless they are held back.
type held struct {
	proxy  *proxy
	target io.Writer
}

func (h held) Write(data []byte) (int, error) {
	h.proxy.mutex.Lock()
	stalled := h.proxy.stalled
	h.proxy.mutex.Unlock()
	if stalled != nil {
		<-stalled
	}
	return h.target.Write(data)
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for connection := range p.open {
		connection.Close()
	}
	clear(p.open)
}

// stall holds answers back until flow is called.
func (p *proxy) stall() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.stalled = make(chan struct{})
}

func (p *proxy) flow() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
}

// route passes new connections on to another server.
func (p *proxy) route(upstream string) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.upstream = upstream
}

// cutNextAfter cuts the next connection after some bytes to the server.
func (p *proxy) cutNextAfter(byteCount int64) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.cutAfter = byteCount
}
