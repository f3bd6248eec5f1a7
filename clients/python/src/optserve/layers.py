"""Layers.

Written by tools/generate_specs.py: the names of `optserve.specs.layers`.
"""

from optserve.specs.layers import (
    GRU,
    LSTM,
    BatchNormalization,
    Convolution,
    Dense,
    Dropout,
    Elementwise,
    Embedding,
    Flatten,
    GlobalPooling,
    Layer,
    LayerNormalization,
    MultiHeadAttention,
    Network,
    Pooling,
    SimpleRNN,
)

__all__ = [
    "GRU",
    "LSTM",
    "BatchNormalization",
    "Convolution",
    "Dense",
    "Dropout",
    "Elementwise",
    "Embedding",
    "Flatten",
    "GlobalPooling",
    "Layer",
    "LayerNormalization",
    "MultiHeadAttention",
    "Network",
    "Pooling",
    "SimpleRNN",
]
