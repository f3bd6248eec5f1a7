"""PyTorch: an optimizer of `torch.optim` whose rule runs on a server (extra ``torch``)."""

from optserve.torch.remote_optimizer import RemoteOptimizer

__all__ = ["RemoteOptimizer"]
