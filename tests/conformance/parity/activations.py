"""The activations of the frameworks; those beside optax are JAX's."""

from __future__ import annotations

from tests.conformance.parity.entry import Table, excuse, here

KERAS = {
    **{
        name: here(name)
        for name in (
            "celu", "elu", "exponential", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_swish",
            "hard_tanh", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid",
            "silu", "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid",
            "squareplus", "tanh", "tanh_shrink", "threshold",
        )
    },
    "hard_silu": here("hard_swish"),
    "leaky_relu": here("leaky_relu", "negative_slope 0.2; the layer's is the default"),
    "sparsemax": here("sparsemax", "Keras' own is wrong where several outputs are above 0"),
    "swish": here("silu"),
    "deserialize": excuse("reads a configuration"),
    "get": excuse("finds a function by name"),
    "serialize": excuse("writes a configuration"),
    "layers.Activation": excuse("a layer of any of the functions"),
    "layers.ELU": here("elu"),
    "layers.LeakyReLU": here("leaky_relu"),
    "layers.PReLU": here("prelu"),
    "layers.ReLU": here("relu"),
    "layers.Softmax": here("softmax"),
}  # fmt: skip

TORCH = {
    "CELU": here("celu"),
    "ELU": here("elu"),
    "GELU": here("gelu"),
    "GLU": here("glu"),
    "Hardshrink": here("hard_shrink"),
    "Hardsigmoid": here("hard_sigmoid"),
    "Hardswish": here("hard_swish"),
    "Hardtanh": here("hard_tanh"),
    "LeakyReLU": here("leaky_relu"),
    "LogSigmoid": here("log_sigmoid"),
    "LogSoftmax": here("log_softmax"),
    "Mish": here("mish"),
    "MultiheadAttention": excuse("a layer with parameters of its own"),
    "PReLU": here("prelu"),
    "RReLU": here("rrelu"),
    "ReLU": here("relu"),
    "ReLU6": here("relu6"),
    "SELU": here("selu"),
    "SiLU": here("silu"),
    "Sigmoid": here("sigmoid"),
    "Softmax": here("softmax"),
    "Softmax2d": here("softmax", "axis -3"),
    "Softmin": here("softmin"),
    "Softplus": here("softplus"),
    "Softshrink": here("soft_shrink"),
    "Softsign": here("softsign"),
    "Tanh": here("tanh"),
    "Tanhshrink": here("tanh_shrink"),
    "Threshold": here("threshold"),
}

NO_ACTIVATION = {
    "dot_product_attention": "of several tensors",
    "get_scaled_dot_general_config": "configures matrix products",
    "initializers": "a module",
    "log1mexp": "a function of mathematics",
    "logmeanexp": "a reduction",
    "logsumexp": "a reduction",
    "one_hot": "makes targets",
    "scaled_dot_general": "a matrix product",
    "scaled_matmul": "a matrix product",
    "standardize": "a normalization",
}

JAX = {
    **{
        name: here(name)
        for name in (
            "celu", "elu", "gelu", "glu", "hard_sigmoid", "hard_swish", "hard_tanh", "leaky_relu",
            "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softmax",
            "softplus", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh",
        )
    },
    "hard_silu": here("hard_swish"),
    "identity": here("linear"),
    "soft_sign": here("softsign"),
    "swish": here("silu"),
    **{name: excuse(reason) for name, reason in NO_ACTIVATION.items()},
}  # fmt: skip

ACTIVATIONS: Table = {"keras": KERAS, "torch": TORCH, "optax": JAX}
