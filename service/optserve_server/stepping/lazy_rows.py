"""Settings that LAZY sparse rows do not support."""

from __future__ import annotations

from optserve_server.errors import DomainError, Reason
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.groupwise import GroupwiseRule
from optserve_server.optimizers.matrix import MatrixRule
from optserve_server.optimizers.tensorwise import TensorwiseRule
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.state.arenas import Arenas
from optserve_server.state.staging import Staging


def check_lazy_update(spec: SessionSpec, arenas: Arenas, staging: Staging) -> None:
    """Refuses a gradient of rows that are to move alone, where the others have to move as well.

    Raises:
        DomainError: CONFLICTING_FIELDS at ``sparse_gradients``; the metadata name the tensor
            and what in the specification is in the way.
    """
    for tensor in staging.tensors:
        if tensor.rows is None:
            continue
        entry = tensor.entry
        rule = arenas.partitions[entry.dtype, entry.group].programs.rule
        conflict = _find_conflicting_option(spec, rule)
        if conflict is not None:
            raise DomainError(
                Reason.CONFLICTING_FIELDS,
                f"rows of {entry.name!r} cannot move alone beside {conflict}; "
                "with spec.gradient.sparse DENSE the session takes them",
                field="sparse_gradients",
                metadata={"tensor": entry.name, "conflict": conflict},
            )


def _find_conflicting_option(spec: SessionSpec, rule: Rule) -> str | None:
    if spec.gradient.accumulation_steps > 1:
        return "spec.gradient.accumulation_steps"
    if spec.weight_average is not None:
        return "spec.weight_average"
    if isinstance(rule, TensorwiseRule | GroupwiseRule | MatrixRule):
        return f"optimizer.{rule.name}"
    return None
