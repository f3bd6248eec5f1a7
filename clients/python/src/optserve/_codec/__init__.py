"""Messages, tensors and their bytes: framing, chunks, element types, layouts and receive buffers."""
