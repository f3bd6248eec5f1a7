"""Layers.

Written by tools/generate_specs.py from optserve/v1/network_spec.proto; change it there.
Formulas, ranges and defaults are the server's declarations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from optserve.specs.base import Choice, Spec
from optserve.specs.enums import LayerPadding, PoolingForm
from optserve.v1 import network_spec_pb2


@dataclass(frozen=True)
class Network(Spec, message=network_spec_pb2.NetworkSpec):
    """A network, described by its layers.

    The input of each is the output of the previous one. Shapes are of one example: without the batch,
    channels last. Counts are of one forward pass in inference.

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
        name: Its name in the response; kind and position, as in dense_2, when empty.
    """

    name: str | None = None


@dataclass(frozen=True)
class Dense(Layer, field="dense"):
    """The fully connected layer.

    y = x*W + b over the last dimension.

    With n places, d features and u units:

            parameters     d*u + u
            multiply-adds  n*d*u
            besides        n*u additions of the bias

    Attributes:
        units: Extent of the output's last dimension. Required. In [1, 1e+09].
        use_bias: Whether there is a bias. Default: True.
    """

    units: int
    _: KW_ONLY
    use_bias: bool = True


@dataclass(frozen=True)
class Convolution(Layer, field="convolution"):
    """Convolutions over one to three dimensions.

    Each output channel sums a window over the channels of its group, and adds a bias.

    With k elements of the kernel, c channels, g groups, f filters and n places of the
    output:

            parameters     k*(c/g)*f + f
            multiply-adds  n*k*(c/g)*f; a product with padding counts as any other
            besides        n*f additions of the bias

    With as many groups as channels it is depthwise.

    Attributes:
        filters: Channels of the output. Required. In [1, 1e+09].
        kernel: Extent of the kernel in each dimension: one to three numbers. Required.
        strides: Stride of the window in each dimension; 1 in each when empty.
        padding: Padding at the borders. Default: VALID.
        dilation: Dilation of the kernel in each dimension; 1 in each when empty.
        groups: Groups of channels that are convolved separately; divides the channels of the input
            and the filters. In [1, 1e+09]. Default: 1.
        use_bias: Whether there is a bias. Default: True.
    """

    filters: int
    kernel: Sequence[int]
    _: KW_ONLY
    strides: Sequence[int] = ()
    padding: LayerPadding = LayerPadding.VALID
    dilation: Sequence[int] = ()
    groups: int = 1
    use_bias: bool = True


@dataclass(frozen=True)
class Pooling(Layer, field="pooling"):
    """Pooling over a sliding window.

    The largest element or the mean of each window, separately for each channel.

    No parameters and no multiply-adds. With k elements of the window, each element of the
    output takes k - 1 comparisons, or k - 1 additions and a division.

    Attributes:
        window: Extent of the window in each dimension: one to three numbers. Required.
        strides: Stride of the window in each dimension; the window's own extent when empty.
        padding: Padding at the borders. Default: VALID.
        form: How a window is reduced. Default: MAX.
    """

    window: Sequence[int]
    _: KW_ONLY
    strides: Sequence[int] = ()
    padding: LayerPadding = LayerPadding.VALID
    form: PoolingForm = PoolingForm.MAX


@dataclass(frozen=True, kw_only=True)
class GlobalPooling(Layer, field="global_pooling"):
    """Pooling over all places.

    The largest element or the mean of each channel over all of its places.

    No parameters and no multiply-adds. With n places, each channel takes n - 1
    comparisons, or n - 1 additions and a division.

    Attributes:
        form: How the positions are reduced. Default: MAX.
        keep_dimensions: Whether the dimensions are kept, with extent 1. Default: False.
    """

    form: PoolingForm = PoolingForm.MAX
    keep_dimensions: bool = False


@dataclass(frozen=True)
class SimpleRNN(Layer, field="simple_rnn"):
    """The plain recurrent layer (Elman, 1990).

    h = tanh(x*W + h*U + b).

    Beside the matrix products a unit takes 2 operations a step, a sum and a function, and
    1 for its bias.

    Attributes:
        units: Extent of the state. Required. In [1, 1e+09].
        use_bias: Whether there is a bias. Default: True.
        return_sequences: Whether every state is an output, not only the last one. Default: False.
        bidirectional: Whether a second layer processes the input backwards; its output is
            concatenated to the first's. Default: False.
    """

    units: int
    _: KW_ONLY
    use_bias: bool = True
    return_sequences: bool = False
    bidirectional: bool = False


@dataclass(frozen=True)
class LSTM(Layer, field="lstm"):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).

    c = f*c + i*g and h = o*tanh(c), with four gates i, f, g, o.

    Beside the matrix products a unit takes 13 operations a step, a sum and a function for
    each gate, 3 for c and 2 for h, and 4 for its biases.

    Attributes:
        units: Extent of the state. Required. In [1, 1e+09].
        use_bias: Whether there are biases. Default: True.
        return_sequences: Whether every state is an output, not only the last one. Default: False.
        bidirectional: Whether a second layer processes the input backwards; its output is
            concatenated to the first's. Default: False.
    """

    units: int
    _: KW_ONLY
    use_bias: bool = True
    return_sequences: bool = False
    bidirectional: bool = False


@dataclass(frozen=True)
class GRU(Layer, field="gru"):
    """The gated recurrent unit (Cho et al., 2014, arXiv:1406.1078).

    h = z*h + (1 - z)*tanh(c), with gates z and r, and the candidate c by `reset_after`

        False  c = x*W + (r*h)*U + b                    (the paper)
        True   c = x*W + b + r*(h*U + b'), b' for z and r as well  (cuDNN, and Keras' default)

    Beside the matrix products a unit takes 11 operations a step: a sum and a function for
    each of z, r and c, 1 for the reset and 4 for h; and 1 for each bias, of which there
    are 3, or 6 where the reset comes after.

    Attributes:
        units: Extent of the state. Required. In [1, 1e+09].
        use_bias: Whether there are biases. Default: True.
        return_sequences: Whether every state is an output, not only the last one. Default: False.
        bidirectional: Whether a second layer processes the input backwards; its output is
            concatenated to the first's. Default: False.
        reset_after: Whether the reset gate is applied after the recurrent product, which then has its
            own bias. Default: True.
    """

    units: int
    _: KW_ONLY
    use_bias: bool = True
    return_sequences: bool = False
    bidirectional: bool = False
    reset_after: bool = True


@dataclass(frozen=True)
class Embedding(Layer, field="embedding"):
    """A table of vectors.

    A vector of the table for each index of the input.

    With v vectors of extent d there are v*d parameters. Looking up computes nothing.

    Attributes:
        vocabulary: Number of vectors. Required. In [1, 1e+09].
        dimension: Length of each vector. Required. In [1, 1e+09].
    """

    vocabulary: int
    dimension: int


@dataclass(frozen=True, kw_only=True)
class BatchNormalization(Layer, field="batch_normalization"):
    """Batch normalization (Ioffe and Szegedy, 2015, arXiv:1502.03167).

    y = gamma*(x - mean)/sqrt(variance + epsilon) + beta, in inference y = a*x + b.

    With c channels there are c factors gamma and c offsets beta, which are trained, and c
    moving means and variances, which are not. Each element takes 2 operations; a and b
    depend on the parameters alone and can be had beforehand.

    Attributes:
        center: Whether there is a learned offset. Default: True.
        scale: Whether there is a learned factor. Default: True.
    """

    center: bool = True
    scale: bool = True


@dataclass(frozen=True, kw_only=True)
class LayerNormalization(Layer, field="layer_normalization"):
    """Layer normalization (Ba, Kiros and Hinton, 2016, arXiv:1607.06450).

    y = gamma*(x - mean)/sqrt(variance + epsilon) + beta over the last dimension.

    With d features there are d factors gamma and d offsets beta. A row takes 5*d + 2
    operations, d for the mean, d to subtract it, 2*d for the mean of the squares, 2 for
    the factor 1/sqrt(variance + epsilon) and d to apply it; and d for each of gamma and
    beta.

    Attributes:
        center: Whether there is a learned offset. Default: True.
        scale: Whether there is a learned factor. Default: True.
    """

    center: bool = True
    scale: bool = True


@dataclass(frozen=True)
class MultiHeadAttention(Layer, field="multi_head_attention"):
    """Multi-head self-attention (Vaswani et al., 2017, arXiv:1706.03762).

    softmax(q*k'/sqrt(key_dim))*v in each head, where q, k, v and the output are projections.

    With T steps, d features, h heads, K = h*key_dim and V = h*value_dim:

            parameters     d*(2*K + 2*V) and biases 2*K + V + d
            multiply-adds  T*d*(2*K + 2*V) for the projections, T*T*(K + V) for the heads
            besides        T*(2*K + V + d) additions of the biases, T*K products that scale
                           the queries, and h*T*(5*T - 2) for the softmax: T - 1 comparisons,
                           T differences, T exponentials, T - 1 additions, T quotients a row

    The output is [time, features] again. The h*T*T scores are no layer's output and not
    among the feature maps.

    Attributes:
        heads: Number of heads. Required. In [1, 1e+09].
        key_dim: Extent of each head's queries and keys. Required. In [1, 1e+09].
        value_dim: Extent of each head's values; that of the keys when unset or 0. In [0, 1e+09].
        use_bias: Whether the four projections have biases. Default: True.
    """

    heads: int
    key_dim: int
    _: KW_ONLY
    value_dim: int = 0
    use_bias: bool = True


@dataclass(frozen=True)
class Flatten(Layer, field="flatten"):
    """All dimensions joined into one.

    The same elements in one dimension: nothing is computed, and no memory is taken.

    The output shares the input's memory.
    """


@dataclass(frozen=True, kw_only=True)
class Elementwise(Layer, field="elementwise"):
    """A function of each element.

    A function of each element without parameters, such as an activation.

    No multiply-adds, and `operations` for each element: 1 by default, as for a
    rectifier's comparison or a call of tanh.

    Attributes:
        operations: Number of floating-point operations for each element. In [0, 1e+09]. Default: 1.
    """

    operations: int = 1


@dataclass(frozen=True)
class Dropout(Layer, field="dropout"):
    """Dropout (Srivastava et al., 2014).

    Does nothing in inference, and has an output of its own while it trains.
    """
