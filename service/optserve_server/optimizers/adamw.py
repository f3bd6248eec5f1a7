"""Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv:1711.05101)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.adam import Adam


@dataclass(frozen=True)
class AdamW(Adam):
    """p -= lr*wd*p, then Adam.

    The session takes the decay off before the rule, as it does for any rule that is given
    one, so the update is Adam's own. In the frame: as Adam.
    """

    weight_decay: float = hyper(0.004, torch=0.01, optax=1e-4, ge=0)

    @property
    def decoupled_weight_decay(self) -> float:
        return self.weight_decay
