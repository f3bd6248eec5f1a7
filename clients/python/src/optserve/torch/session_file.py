"""State of a session in the layout of `torch.optim`, read from and written to exported snapshots."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import safetensors
import safetensors.torch
import torch

from optserve.session import SessionHandle
from optserve.torch.torch_rules import MOMENTUM_PRODUCT, STEP, TorchRule

State = dict[str, torch.Tensor]
"""State of one parameter, as `torch.optim` has it."""

_FACTS = "optserve"
_CHECKSUMS = "checksums"
_PRODUCT_KEY, _PRODUCT = MOMENTUM_PRODUCT


class SessionFile:
    """An exported session.

    Args:
        session: is exported.

    Attributes:
        facts: step, step counts and other numbers.
        tensors: parameters and state by name in the file.
    """

    def __init__(self, session: SessionHandle) -> None:
        file = io.BytesIO()
        session.snapshots.export(file)
        data = file.getvalue()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        self._metadata: dict[str, str] = header["__metadata__"]
        self.facts: dict[str, Any] = json.loads(self._metadata[_FACTS])
        self.tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
        del self.tensors[_CHECKSUMS]  # valid for the exported bytes only

    def encode(self) -> io.BytesIO:
        """Returns the file."""
        metadata = {**self._metadata, _FACTS: json.dumps(self.facts)}
        return io.BytesIO(safetensors.torch.save(self.tensors, metadata))

    def read_states(self, names: Iterable[str], rule: TorchRule) -> dict[str, State]:
        """Returns the state of each tensor that has taken a step, by name."""
        states: dict[str, State] = {}
        wanted = set(names)
        for group, count, scalars, members in self.facts["clocks"]:
            if count == 0:
                continue
            mine = [name for name, own in self._groups.items() if own == group]
            for name in wanted.intersection(mine if members is None else members):
                counted = STEP in rule.find_slots(self._count_axes(name))
                state: State = {STEP: torch.tensor(float(count))} if counted else {}
                if _PRODUCT in scalars:
                    state[_PRODUCT_KEY] = torch.tensor(scalars[_PRODUCT])
                states[name] = state | self._read_slots(name, rule)
        return {name: state for name, state in states.items() if state}

    def write_states(self, states: Mapping[str, State], rule: TorchRule, step: int) -> None:
        """Replaces state, step counts and the session's step.

        Args:
            states: by name; a tensor without one keeps its initial state.
            rule: the rule.
            step: the least step that the session has.

        Raises:
            ValueError: a state has another shape than its parameter's.
        """
        clocks: dict[str, list[Any]] = {}
        initial = {group: scalars for group, _, scalars, _ in self.facts["clocks"]}
        for name, group in self._groups.items():
            state = states.get(name, {})
            count = int(state[STEP]) if STEP in state else int(bool(state))
            scalars = {**initial[group]}
            if _PRODUCT_KEY in state:
                scalars[_PRODUCT] = float(state[_PRODUCT_KEY])
            clock = clocks.setdefault(json.dumps([group, count, scalars]), [group, count, scalars, []])
            clock[3].append(name)
            step = max(step, count)
            self._write_slots(name, state, rule)
        by_group: dict[str, list[list[Any]]] = {}
        for clock in clocks.values():
            by_group.setdefault(clock[0], []).append(clock)
        for only in (found[0] for found in by_group.values() if len(found) == 1):
            only[3] = None  # all tensors of the group
        self.facts |= {"clocks": list(clocks.values()), "step": step}

    @property
    def _groups(self) -> dict[str, str]:
        """The group of each tensor."""
        groups = json.loads(self._metadata["spec"]).get("groups", ())
        named = {name: group["name"] for group in groups for name in group["tensors"]}
        return {name: named.get(name, "") for name, *_ in self.facts["layout"]}

    def _read_slots(self, name: str, rule: TorchRule) -> State:
        own = {slot: key for key, slot in rule.find_slots(self._count_axes(name)).items()}
        found: State = {}
        for path, tensor in self.tensors.items():
            kind, slot, of = (*path.split("/", 2), "", "")[:3]
            if kind == "slot" and of == name:
                key = own.get(slot, slot)
                found[key] = tensor.unsqueeze(rule.unit_axes[key]) if key in rule.unit_axes else tensor
        return found

    def _count_axes(self, name: str) -> int:
        axes: int = self.tensors[f"parameter/{name}"].dim()
        return axes

    def _write_slots(self, name: str, state: State, rule: TorchRule) -> None:
        slots = rule.find_slots(self._count_axes(name))
        for key, value in state.items():
            path = f"slot/{slots.get(key, key)}/{name}"
            if key in (STEP, _PRODUCT_KEY) or not isinstance(value, torch.Tensor):
                continue
            if path not in self.tensors:
                raise ValueError(f"the state has {key!r}, which {name!r} has not under the session's rule")
            own = self.tensors[path]
            if value.numel() != own.numel():
                text = f"state {key!r} of {name!r} has shape {tuple(value.shape)}, but must have"
                raise ValueError(f"{text} {tuple(own.shape)}")
            self.tensors[path] = value.detach().cpu().to(own.dtype).reshape(own.shape).contiguous()


def numpy_view(tensor: torch.Tensor) -> Any:
    """Returns an array that shares the memory of a tensor of this host; bfloat16 as that of ml_dtypes."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
