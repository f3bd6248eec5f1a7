"""Binary focal cross-entropy (Lin et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.losses.classification import binary_crossentropy as binary
from optserve_server.losses.classification.binary_crossentropy import BinaryLoss
from optserve_server.losses.probabilities import multiply_no_nan, power, sigmoid


@dataclass(frozen=True)
class BinaryFocalCrossentropy(BinaryLoss):
    """a*m^gamma*c, the mean over an axis, where c is binary cross-entropy and

    m = y*(1 - p) + (1 - y)*p              how wrong the answer is; p is not clipped here
    a = y*alpha + (1 - y)*(1 - alpha)      with class balancing (torchvision), otherwise 1

    From logits everything is computed by log-sum-exp, as in optax and torchvision. Keras
    clips their probabilities, which differs beyond logits of 16 only.
    """

    gamma: float = hyper(2.0, ge=0)
    apply_class_balancing: bool = hyper(False, torch=True)
    alpha: float = hyper(0.25, ge=0, le=1)

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        of = binary.crossentropy_from_logits if self.from_logits else binary.crossentropy_from_probabilities
        entropy = of(ops, p, y, 1 - y)
        return self._class_balance_factor(y) * (
            power(ops, self._wrong_class_probability(ops, p, y), self.gamma) * entropy
        )

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        """m^gamma*c' + gamma*m^(gamma - 1)*m'*c, where m' is 1 - 2y, from logits times p*(1 - p)."""
        of = binary.crossentropy_from_logits if self.from_logits else binary.crossentropy_from_probabilities
        of_slope = (
            binary.crossentropy_from_logits_derivative
            if self.from_logits
            else binary.crossentropy_from_probabilities_derivative
        )
        wrong, entropy = self._wrong_class_probability(ops, p, y), of(ops, p, y, 1 - y)
        slope = power(ops, wrong, self.gamma) * of_slope(ops, p, y, 1 - y)
        if self.gamma:
            slope = slope + multiply_no_nan(ops, self._focal_factor_gradient(ops, p, y, wrong), entropy)
        return self._class_balance_factor(y) * slope

    def _focal_factor_gradient(self, ops: Ops, p: Value, y: Value, wrong: Value) -> Value:
        """The derivative of m^gamma."""
        rise = self.gamma * power(ops, wrong, self.gamma - 1) * (1 - 2 * y)
        if self.from_logits:
            rise = rise * (sigmoid(ops, p) * sigmoid(ops, -p))
        # Infinitely steep where nothing is wrong, but there the entropy is 0.
        return ops.where(wrong == 0, 0.0, rise) if self.gamma < 1 else rise

    def _wrong_class_probability(self, ops: Ops, p: Value, y: Value) -> Value:
        if self.from_logits:
            return y * sigmoid(ops, -p) + (1 - y) * sigmoid(ops, p)
        return y * (1 - p) + (1 - y) * p

    def _class_balance_factor(self, y: Value) -> Value:
        return y * self.alpha + (1 - y) * (1 - self.alpha) if self.apply_class_balancing else 1.0
