"""Layers.

Written by tools/generate_specs.py from optserve/v1/network_spec.proto; change it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from optserve.enums import LayerPadding, PoolingForm
from optserve.spec import Choice, Spec
from optserve.v1 import network_spec_pb2


@dataclass(frozen=True)
class Network(Spec, message=network_spec_pb2.NetworkSpec):
    """A network, described by its layers.

    Each takes the output of the one before. Shapes are those of one example: without the batch, channels
    last. Counts are those of one forward pass in inference.

    Attributes:
        layers: The layers in their order, at most 10000. Required.
        input_shape: Extent of each dimension of the first layer's input, each in [1, 1e9] and at most
            32 of them. Empty for a single number.
    """

    layers: Sequence[Layer]
    _: KW_ONLY
    input_shape: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Layer(Choice, message=network_spec_pb2.LayerSpec, oneof="layer"):
    """One layer, described in at most 1024 bytes.

    Attributes:
        name: Its name in the answer; kind and position, as in dense_2, when empty.
    """

    name: str | None = None


@dataclass(frozen=True)
class Dense(Layer, field="dense"):
    """A fully connected layer over the last dimension: y = x*W + b.

    Attributes:
        units: Extent of the output's last dimension. Required.
        use_bias: Whether there is a bias.
    """

    units: int
    _: KW_ONLY
    use_bias: bool | None = None


@dataclass(frozen=True)
class Convolution(Layer, field="convolution"):
    """A convolution over one to three dimensions and the channels behind them.

    As many groups as channels make it depthwise.

    Attributes:
        filters: Channels of the output. Required.
        kernel: Extent of the kernel in each dimension: one to three numbers. Required.
        strides: Distance of neighbouring windows in each dimension; 1 in each when empty.
        padding: What happens at the borders.
        dilation: Distance of a kernel's elements in each dimension; 1 in each when empty.
        groups: Groups of channels that are convolved apart; divides the channels of the input and the
            filters.
        use_bias: Whether there is a bias.
    """

    filters: int
    kernel: Sequence[int]
    _: KW_ONLY
    strides: Sequence[int] = ()
    padding: LayerPadding | None = None
    dilation: Sequence[int] = ()
    groups: int | None = None
    use_bias: bool | None = None


@dataclass(frozen=True)
class Pooling(Layer, field="pooling"):
    """Pooling over windows of one to three dimensions, each channel by itself.

    Attributes:
        window: Extent of the window in each dimension: one to three numbers. Required.
        strides: Distance of neighbouring windows in each dimension; the window's own extent when
            empty.
        padding: What happens at the borders.
        form: What is made of a window.
    """

    window: Sequence[int]
    _: KW_ONLY
    strides: Sequence[int] = ()
    padding: LayerPadding | None = None
    form: PoolingForm | None = None


@dataclass(frozen=True, kw_only=True)
class GlobalPooling(Layer, field="global_pooling"):
    """Pooling of each channel over all of its places, in one to three dimensions.

    Attributes:
        form: What is made of the places.
        keep_dimensions: Whether the dimensions stay, with extent 1.
    """

    form: PoolingForm | None = None
    keep_dimensions: bool | None = None


@dataclass(frozen=True)
class SimpleRnn(Layer, field="simple_rnn"):
    """The plain recurrent layer over an input of [time, features].

    Attributes:
        units: Extent of the state. Required.
        use_bias: Whether there is a bias.
        return_sequences: Whether every state is given out rather than the last alone.
        bidirectional: Whether a second layer runs backwards, its output put behind the first's.
    """

    units: int
    _: KW_ONLY
    use_bias: bool | None = None
    return_sequences: bool | None = None
    bidirectional: bool | None = None


@dataclass(frozen=True)
class Lstm(Layer, field="lstm"):
    """Long short-term memory over an input of [time, features].

    Attributes:
        units: Extent of the state. Required.
        use_bias: Whether there are biases.
        return_sequences: Whether every state is given out rather than the last alone.
        bidirectional: Whether a second layer runs backwards, its output put behind the first's.
    """

    units: int
    _: KW_ONLY
    use_bias: bool | None = None
    return_sequences: bool | None = None
    bidirectional: bool | None = None


@dataclass(frozen=True)
class Gru(Layer, field="gru"):
    """The gated recurrent unit over an input of [time, features].

    Attributes:
        units: Extent of the state. Required.
        use_bias: Whether there are biases.
        return_sequences: Whether every state is given out rather than the last alone.
        bidirectional: Whether a second layer runs backwards, its output put behind the first's.
        reset_after: Whether the reset gate acts behind the recurrent product, which then has a bias
            of its own.
    """

    units: int
    _: KW_ONLY
    use_bias: bool | None = None
    return_sequences: bool | None = None
    bidirectional: bool | None = None
    reset_after: bool | None = None


@dataclass(frozen=True)
class Embedding(Layer, field="embedding"):
    """A table of vectors.

    Each element of the input is an index.

    Attributes:
        vocabulary: How many vectors there are. Required.
        dimension: Extent of each. Required.
    """

    vocabulary: int
    dimension: int


@dataclass(frozen=True, kw_only=True)
class BatchNormalization(Layer, field="batch_normalization"):
    """Batch normalization over the last dimension.

    Its moving mean and variance are parameters that are not trained.

    Attributes:
        center: Whether an offset is learnt.
        scale: Whether a factor is learnt.
    """

    center: bool | None = None
    scale: bool | None = None


@dataclass(frozen=True, kw_only=True)
class LayerNormalization(Layer, field="layer_normalization"):
    """Layer normalization over the last dimension.

    Attributes:
        center: Whether an offset is learnt.
        scale: Whether a factor is learnt.
    """

    center: bool | None = None
    scale: bool | None = None


@dataclass(frozen=True)
class MultiHeadAttention(Layer, field="multi_head_attention"):
    """Multi-head attention of an input of [time, features] to itself, projected back to the input's features.

    Attributes:
        heads: How many heads there are. Required.
        key_dim: Extent of each head's queries and keys. Required.
        value_dim: Extent of each head's values; that of the keys when unset or 0.
        use_bias: Whether the four projections have biases.
    """

    heads: int
    key_dim: int
    _: KW_ONLY
    value_dim: int | None = None
    use_bias: bool | None = None


@dataclass(frozen=True)
class Flatten(Layer, field="flatten"):
    """One dimension made of all.

    The output is the input's memory.
    """


@dataclass(frozen=True, kw_only=True)
class Elementwise(Layer, field="elementwise"):
    """A function of each element, without parameters, such as an activation.

    Attributes:
        operations: Floating-point operations that one element is counted for.
    """

    operations: int | None = None


@dataclass(frozen=True)
class Dropout(Layer, field="dropout"):
    """Dropout, which does nothing in inference but has an output of its own."""
