"""The data that a session is trained on: examples in shards, over epochs."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Hyperparameters, hyper

MAX_SHARDS = 1 << 62
"""Shards of all epochs of one plan."""


@dataclass(frozen=True)
class DataPlanSpec(Hyperparameters):
    """A plan by which each example is used exactly once in each epoch."""

    example_count: int = hyper(ge=1)
    shard_size: int = hyper(ge=1)
    seed: int = hyper(0, ge=0)
    epochs: int = hyper(1, ge=1)

    def validate(self) -> None:
        """Rejects a plan whose shards cannot be numbered."""
        if self.shard_count > MAX_SHARDS:
            text = f"the plan has {self.shard_count} shards, but must have at most {MAX_SHARDS}"
            raise DomainError(Reason.OUT_OF_RANGE, text, field="epochs")

    @property
    def shards_per_epoch(self) -> int:
        """Number of shards of one epoch."""
        return -(-self.example_count // self.shard_size)

    @property
    def shard_count(self) -> int:
        """Number of shards of all epochs."""
        return self.shards_per_epoch * self.epochs
