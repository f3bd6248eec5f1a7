"""The adapter for Keras, in a process for each backend, which KERAS_BACKEND names."""
