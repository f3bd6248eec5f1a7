"""The gRPC server and its event loop."""
