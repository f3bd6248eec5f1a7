"""Channels to a server: gRPC, data connections, retries and time-outs."""
