package optserve

import (
	"cmp"
	"context"
	"crypto/tls"
	_ "embed"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

// Version of this client.
const Version = "0.1.0"

const (
	defaultTimeout = time.Minute
	inlineBytes    = 1 << 20 // parameters with more bytes are uploaded after the session is created
)

//go:embed service_config.json
var serviceConfig string

// Client is a client of one server. Any number of goroutines may use it.
type Client struct {
	// Service, Workers and Functions are generated stubs for what has no method here. Their calls return
	// an [Error]; unary ones get request ids and are repeated until the deadline. [Tensor.Message] and
	// [FromMessage] convert tensors.
	Service   pb.SessionServiceClient
	Workers   pb.WorkerServiceClient
	Functions pb.FunctionServiceClient

	connection *grpc.ClientConn
	timeout    time.Duration
	ctx        context.Context // ends with the client
	cancel     context.CancelFunc
}

// Option is an option of [Connect].
type Option func(*settings)

type settings struct {
	transport credentials.TransportCredentials
	token     string
	timeout   time.Duration
	dial      []grpc.DialOption
}

// WithTLS encrypts the connection. For mutual TLS the configuration has the client's certificate.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) { s.transport = credentials.NewTLS(config) }
}

// WithToken sends a bearer token with every call. Without TLS it is not encrypted.
func WithToken(token string) Option { return func(s *settings) { s.token = token } }

// WithTimeout bounds calls whose context has no deadline, with all their attempts. A transfer gets
// a second more for each 10 MB. The default is a minute; 0 is no bound.
func WithTimeout(timeout time.Duration) Option { return func(s *settings) { s.timeout = timeout } }

// WithDialOptions adds options of gRPC, such as interceptors.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.dial = append(s.dial, options...) }
}

// Connect returns a client of the server at target, such as "localhost:50051" or "unix:/path". It
// connects at the first call, and again whenever the connection is lost.
//
// What is not given is taken from the environment: OPTSERVE_SERVER is the target if it is empty,
// OPTSERVE_TOKEN the token, and OPTSERVE_CA a PEM file with the authorities to trust, which turns
// TLS on.
func Connect(target string, options ...Option) (*Client, error) {
	s := settings{token: os.Getenv("OPTSERVE_TOKEN"), timeout: defaultTimeout}
	for _, option := range options {
		option(&s)
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, errors.New("optserve: tensors are sent as they are in memory, which must be little-endian")
	}
	if target = cmp.Or(target, os.Getenv("OPTSERVE_SERVER")); target == "" {
		return nil, errors.New("optserve: the target is empty, and OPTSERVE_SERVER is not set")
	}
	if authority := os.Getenv("OPTSERVE_CA"); s.transport == nil && authority != "" {
		var err error
		if s.transport, err = credentials.NewClientTLSFromFile(authority, ""); err != nil {
			return nil, err
		}
	} else if s.transport == nil {
		s.transport = insecure.NewCredentials()
	}
	c := &Client{timeout: s.timeout}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(s.transport),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithUserAgent("optserve-go/" + Version),
		grpc.WithChainUnaryInterceptor(c.intercept),
		grpc.WithChainStreamInterceptor(interceptStream),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32),
			grpc.ForceCodecV2(newCodec())),
		// More often than balancers forget a silent connection (350 s), and less often than servers
		// allow by default (300 s).
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 330 * time.Second, Timeout: 20 * time.Second}),
		// Soon, because calls are repeated soon.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 2, Jitter: 0.5, MaxDelay: longestPause},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	if s.token != "" {
		dial = append(dial, grpc.WithPerRPCCredentials(bearer(s.token)))
	}
	connection, err := grpc.NewClient(target, append(dial, s.dial...)...)
	if err != nil {
		return nil, err
	}
	c.connection = connection
	c.Service, c.Workers = pb.NewSessionServiceClient(connection), pb.NewWorkerServiceClient(connection)
	c.Functions = pb.NewFunctionServiceClient(connection)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// bearer sends a token with every call.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (b bearer) RequireTransportSecurity() bool { return false }

// Close closes the connection. Calls and streams under way end with an error.
func (c *Client) Close() error {
	c.cancel()
	return c.connection.Close()
}

// Connection returns the gRPC connection, for other services such as grpc.health.v1.
func (c *Client) Connection() *grpc.ClientConn { return c.connection }

// Value returns a parameter with its initial value, float32 or float64.
func Value(name string, value Tensor) *pb.ParameterInit {
	return pb.ParameterInit_builder{Name: name, Value: value.Message()}.Build()
}

// Initialized returns a float32 parameter whose initial value the server computes.
func Initialized(name string, spec *pb.InitializerSpec, shape ...int64) *pb.ParameterInit {
	return pb.ParameterInit_builder{Name: name, Initializer: pb.InitializedTensor_builder{
		Dtype: pb.DataType_DATA_TYPE_FLOAT32, Shape: shape, Spec: spec,
	}.Build()}.Build()
}

// SessionOptions are options of a new session.
type SessionOptions struct {
	ID   string // last part of the session's name; chosen by the server if empty
	Seed uint64 // of the initializers
}

// CreateSession creates a session with parameters from [Value] and [Initialized]. options may be nil.
//
// Values of more than 1 MiB in total are uploaded after the session is created; if that fails, the
// session is deleted.
func (c *Client) CreateSession(
	ctx context.Context, spec *pb.SessionSpec, parameters []*pb.ParameterInit, options *SessionOptions,
) (*Session, error) {
	options = cmp.Or(options, &SessionOptions{})
	byteCount, uploads := 0, Tensors{}
	for _, parameter := range parameters {
		byteCount += len(parameter.GetValue().GetData())
	}
	if byteCount > inlineBytes {
		parameters = slices.Clone(parameters)
		for i, parameter := range parameters {
			if value := parameter.GetValue(); value != nil {
				dtype, shape := value.GetDtype(), value.GetShape()
				uploads[parameter.GetName()] = Tensor{dtype: dtype, shape: ints(shape), raw: value.GetData()}
				parameters[i] = pb.ParameterInit_builder{
					Name: parameter.GetName(), Upload: pb.TensorShape_builder{Dtype: dtype, Shape: shape}.Build(),
				}.Build()
			}
		}
	}
	answer, err := c.Service.CreateSession(ctx, pb.CreateSessionRequest_builder{
		SessionId: options.ID, Spec: spec, Parameters: parameters, Seed: options.Seed,
	}.Build())
	if err != nil {
		return nil, err
	}
	session := newSession(c, answer.GetSession())
	if len(uploads) > 0 {
		if _, err := session.Push(ctx, uploads, nil); err != nil {
			cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return nil, errors.Join(err, session.Delete(cleanup))
		}
	}
	return session, nil
}

// Session returns a handle of an existing session, by its name sessions/{id} or its id.
func (c *Client) Session(ctx context.Context, name string) (*Session, error) {
	return c.SessionAs(ctx, name, "")
}

// SessionAs returns a handle whose steps are those of a worker; a random name if it is empty. A
// program that is started again continues under its earlier name, after the last step that was
// applied. Two handles or streams must not use one name at the same time.
func (c *Client) SessionAs(ctx context.Context, name, worker string) (*Session, error) {
	if !strings.HasPrefix(name, "sessions/") {
		name = "sessions/" + name
	}
	answer, err := c.Service.GetSession(ctx, pb.GetSessionRequest_builder{Name: name, Worker: worker}.Build())
	if err != nil {
		return nil, err
	}
	session := newSession(c, answer.GetSession())
	if worker != "" {
		session.stream.worker, session.stream.next = worker, answer.GetNextSequence()
	}
	return session, nil
}
