"""Programs over arrays, the tracer that makes them, and the executors that run them."""
