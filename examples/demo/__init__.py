"""The demo behind ``make demo``: two classifiers trained on a server over gRPC."""
