"""The harness of `benchmarks`: what it measures and how it reports."""
