"""Multi-head self-attention (Vaswani et al., 2017, arXiv:1706.03762)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.complexity.base import MAX_EXTENT, Cost, Layer, Shape, require_rank
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class MultiHeadAttention(Layer):
    """softmax(q*k'/sqrt(key_dim))*v in each head, where q, k, v and the output are projections.

    With T steps, d features, h heads, K = h*key_dim and V = h*value_dim:

        parameters     d*(2*K + 2*V) and biases 2*K + V + d
        multiply-adds  T*d*(2*K + 2*V) for the projections, T*T*(K + V) for the heads
        besides        T*(2*K + V + d) additions of the biases, T*K products that scale
                       the queries, and h*T*(5*T - 2) for the softmax: T - 1 comparisons,
                       T differences, T exponentials, T - 1 additions, T quotients a row

    The output is [time, features] again. The h*T*T scores are no layer's output and not
    among the feature maps.
    """

    heads: int = hyper(ge=1, le=MAX_EXTENT)
    key_dim: int = hyper(ge=1, le=MAX_EXTENT)
    value_dim: int = hyper(0, ge=0, le=MAX_EXTENT)
    use_bias: bool = hyper(True)

    def __post_init__(self) -> None:
        # Resolved here, so that the echo states it.
        object.__setattr__(self, "value_dim", self.value_dim or self.key_dim)
        super().__post_init__()

    def cost(self, shape: Shape) -> Cost:
        require_rank(shape, range(2, 3), "[time, features]")
        time, features = shape
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        weights = features * (2 * keys + 2 * values)
        biases = (2 * keys + values + features) * self.use_bias
        return Cost(
            shape,
            tensors=self._parameter_shapes(features),
            multiply_adds=time * weights + time * time * (keys + values),
            operations=time * (biases + keys + self.heads * (5 * time - 2)),
        )

    def _parameter_shapes(self, features: int) -> tuple[Shape, ...]:
        """Kernel and bias of the queries, keys and values, which keep heads apart, and the output."""
        found: list[Shape] = []
        for width in (self.key_dim, self.key_dim, self.value_dim):
            found += [(features, self.heads, width), (self.heads, width)]
        found += [(self.heads, self.value_dim, features), (features,)]
        return tuple(found if self.use_bias else found[::2])
