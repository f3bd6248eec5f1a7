"""The built image, run as operators run it. `make image-test` runs it; it needs a container engine."""
