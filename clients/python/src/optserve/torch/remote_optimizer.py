"""Optimizer of PyTorch whose rule runs on a server."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist

from optserve import coercion, errors
from optserve._codec.sparse_rows import SparseRows
from optserve._engine.overrides import Overrides
from optserve._engine.step_result import StepResult
from optserve.client import Client, connect
from optserve.complexity import AnyOptimizer
from optserve.session import SessionHandle
from optserve.specs.enums import Convention, NonFinitePolicy
from optserve.specs.optimizers import Optimizer
from optserve.specs.session_spec import Gradient, ParameterGroup
from optserve.stream import StepStream
from optserve.torch.session_file import SessionFile, State, numpy_view
from optserve.torch.session_replacement import (
    STAGING_LEASE,
    finish_replacement,
    import_complete,
    replace_session,
)
from optserve.torch.torch_rules import DECOUPLED, L2, find_torch_rule, list_values
from optserve.workers import Member

SESSION_KEY = "optserve"
"""Key of `RemoteOptimizer.state_dict` that has the session and its step."""

UPLOAD_POLL_S = 0.05
"""Seconds between two looks at a session whose parameters another worker uploads."""

UPLOAD_TIMEOUT_S = 600.0
"""Seconds after which that worker is taken for lost."""


class RemoteOptimizer(torch.optim.Optimizer):  # type: ignore[misc]  # PyTorch is optional
    """A `torch.optim.Optimizer` whose rule and state are those of a session.

    The session is created, under the convention TORCH, with the parameters' values at the first step. Each
    step sends the gradients, and whatever hyperparameters of ``param_groups`` differ from the session's;
    the new parameters are written into the model's own memory. If the server is on this host, gradients are
    accumulated in memory that is shared with it while backward still runs: ``param.grad`` is then a view of
    that memory, and is overwritten by the next backward. A parameter that was changed since the last
    step, as by ``model.load_state_dict``, is sent first; only a change through ``param.data`` is not noticed.

    A gradient that is not finite is skipped by the server, as `last_result` says, unless ``gradient``
    states another policy.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of parameter groups, as for any optimizer of PyTorch.
            The session's tensors have the names, or numbers if there are none.
        rule: the rule, such as ``optserve.optimizers.AdamW(lr=1e-3)``, or its name.
        server: its address, or a client, which the caller closes.
        session_id: last part of the session's name; chosen by the server when empty.
        resume: whether the session exists, and the model takes its parameters.
        worker: name under which this process joins the session, whose ``coordination`` combines the steps of
            several. The first of them creates it. A session under SYNC accepts no change of ``param_groups``.
        process_group: of DistributedDataParallel: its rank 0 steps, and broadcasts the parameters.
        weight_decay: factor of the L2 penalty or, for AdamW, of the decoupled decay; the rule's when None.
        maximize: whether the objective is maximized.
        foreach: accepted for compatibility; the server has one implementation.
        fused: as ``foreach``.
        session_options: further arguments of `Client.create_session`, such as ``durability``.

    Attributes:
        last_result: the result of the last step; None before it.

    Raises:
        ValueError, TypeError: an argument is wrong.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Any,
        rule: AnyOptimizer,
        *,
        server: str | Client,
        session_id: str = "",
        resume: bool = False,
        worker: str | None = None,
        process_group: Any = None,
        weight_decay: float | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        **session_options: Any,
    ) -> None:
        if (resume or worker is not None) and not session_id:
            raise ValueError("session_id is empty, but must name the session that is resumed or joined")
        self._rule: Any = dataclasses.replace(Optimizer.of(rule, "rule"), convention=Convention.TORCH)
        self._torch_rule = find_torch_rule(self._rule)
        self._client = connect(server) if isinstance(server, str) else server
        self._owns_client = isinstance(server, str)
        self._session_id = coercion.to_string(session_id, "session_id")
        self._attaches, self._worker, self._process_group = (
            resume or worker is not None,
            worker,
            process_group,
        )
        session_options.setdefault("gradient", Gradient(non_finite=NonFinitePolicy.SKIP))
        self._options = session_options
        self._names: dict[torch.Tensor, str] = {}
        self._session: SessionHandle | None = None
        self._steps: StepStream | Member | None = None
        self._step = 0
        self._states: dict[str, State] | None = None  # to be written to the next session
        self._values: dict[str, dict[str, float]] = {}  # hyperparameters of the session by group
        self._shared: dict[torch.Tensor, torch.Tensor] = {}  # memory for gradients
        self._gradients: Mapping[str, Any] | None = None  # the same as arrays by name
        self._received: dict[torch.Tensor, torch.Tensor] = {}  # parameters that have to be converted or moved
        self._targets: dict[str, Any] = {}
        self._versions: dict[torch.Tensor, tuple[int, int]] = {}
        self._gradient_hooks: list[Any] = []
        self.last_result: StepResult | None = None
        if session_options.get("schedule") is not None:
            self._rule = type(self._rule)(**{**vars(self._rule), "learning_rate": None})
        given = {
            "weight_decay": weight_decay,
            "maximize": maximize or None,
            "foreach": foreach,
            "fused": fused,
        }
        super().__init__(params, self._torch_rule.make_defaults(self._rule, given))

    @property
    def session(self) -> SessionHandle:
        """The session, which is created if there is none yet.

        Raises:
            RuntimeError: this process is not the one of the process group that steps.
        TimeoutError: the worker that created the session has not uploaded its parameters.
            OptserveError: an error of the server, or it could not be reached.
        """
        if not self._is_stepping:
            raise RuntimeError("process_group is given, so that only its rank 0 has a session")
        if self._session is None or self._states is not None:
            self._open_session()
        assert self._session is not None
        return self._session

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group, as in PyTorch. A session that exists is replaced by a larger one."""
        if self._session is not None and self._states is None:
            self._check_alone("add_param_group")
            self._states = self._pull_states()
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        first = sum(len(other["params"]) for other in self.param_groups[:-1])
        names = group.get("param_names") or [str(first + i) for i in range(len(group["params"]))]
        self._names.update(zip(group["params"], names, strict=True))
        if len(set(self._names.values())) < len(self._names):
            raise ValueError("params has two parameters of one name")

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step of the session with the parameters' gradients.

        Parameters without a gradient do not change; without any gradient, nothing is sent.

        Args:
            closure: computes the loss again and returns it.

        Returns:
            The loss of ``closure``; None without it.

        Raises:
            StepMismatch: another client has taken a step of the session, so that the model is out of date.
            OptserveError: as for `StepStream.step`. After Unavailable and DeadlineExceeded the step may
                have been applied; calling this again with the same gradients applies it once.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._process_group is None:
            self._take_step()
        else:
            self._step_and_broadcast()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Returns the state in PyTorch's own layout, which the local optimizer of the same rule can load.

        The key ``optserve`` has the session's name and step.
        """
        states = self._states or {}
        if self._states is None and self._session is not None and self._is_stepping:
            states = self._pull_states()
        self.state.update({p: dict(states[n]) for p, n in self._names.items() if n in states})
        try:
            packed: dict[str, Any] = super().state_dict()
        finally:
            self.state.clear()
        if self._session is not None and self._states is None:
            packed[SESSION_KEY] = {"session": self._session.name, "step": self._step}
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state of this class, or of the optimizer of `torch.optim` with the same rule.

        The next step replaces the session by one of this state and of the model's parameters. Nothing is
        replaced if the state is that of the session at its current step.

        Raises:
            RuntimeError: the state belongs to the session at another step.
            ValueError: the groups are not those of this optimizer.
        """
        of: Any = state_dict.get(SESSION_KEY)
        if of is not None and self._attaches and self._session is None and self._is_stepping:
            self._open_session()
        same = bool(of and self._session is not None and of["session"] == self._session.name)
        if same and of["step"] != (now := self.session.get().step):
            raise RuntimeError(
                f"the state is that of step {of['step']} of {of['session']}, which is at step {now}; restore"
                f" a snapshot, or remove the key {SESSION_KEY!r} to replace the session's state"
            )
        final: dict[str, Any] = {}
        # Called after the caller's hooks, which may replace the state. PyTorch would convert it to the
        # parameters' type, which may have fewer bits than the session's.
        hook = self.register_load_state_dict_pre_hook(lambda _, given: final.update(given))
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
            self.state.clear()
        if same:
            return
        if self._session is not None:
            self._check_alone("load_state_dict")
        numbers = [number for group in final["param_groups"] for number in group["params"]]
        names = [self._names[p] for group in self.param_groups for p in group["params"]]
        self._states = {
            name: final["state"][number]
            for name, number in zip(names, numbers, strict=True)
            if number in final["state"]
        }
        self._step = of["step"] if of is not None else 0

    def close(self) -> None:
        """Ends the connection; the session stays on the server."""
        self._close_steps()
        if self._owns_client:
            self._client.close()

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "a RemoteOptimizer cannot be copied or pickled, because a copy would step the same session"
        )

    @property
    def _is_stepping(self) -> bool:
        return self._process_group is None or dist.get_rank(self._process_group) == 0

    def _check_alone(self, call: str) -> None:
        if self._worker is not None:
            raise RuntimeError(f"{call} would replace a session that other workers have joined")

    def _list_groups(self) -> dict[str, dict[str, float]]:
        """Hyperparameters by the name of the session's group; the first is the default group."""
        groups = {
            f"group{i}" if i else "": list_values(self._rule, group)
            for i, group in enumerate(self.param_groups)
        }
        if self._options.get("schedule") is not None:
            for values in groups.values():
                values.pop("learning_rate", None)
        return groups

    def _make_settings(self, values: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """The parts of the session's specification that have these hyperparameters."""
        declared = {f.name for f in dataclasses.fields(self._rule)}
        made = {
            name: dataclasses.replace(self._rule, **{k: v for k, v in own.items() if k in declared})
            for name, own in values.items()
        }
        gradient = self._options["gradient"]
        groups = [
            ParameterGroup(
                name,
                tensors=list(dict.fromkeys(self._names[p] for p in group["params"])),
                l2=values[name].get(L2),
                decoupled_weight_decay=values[name].get(DECOUPLED),
                optimizer=made[name],
            )
            for name, group in zip(values, self.param_groups, strict=True)
            if name
        ]
        gradient = dataclasses.replace(gradient, l2=values[""].get(L2, gradient.l2))
        decay = {key: values[""][key] for key in (DECOUPLED,) if key in values[""]}
        return {"optimizer": made[""], "gradient": gradient, "groups": groups, **decay}

    def _open_session(self) -> None:
        """Creates the session, or attaches to it; replaces it if there is a state to be written."""
        self._close_steps()
        self._values = self._list_groups()
        if self._session is None and self._session_id:
            finish_replacement(self._client, self._session_id)
        if self._session is None and self._attaches and (self._states is None or self._worker is None):
            self._session = self._attach()
        if self._session is None and not self._states:
            self._session = self._create_session(self._session_id)
        elif self._states is not None:
            self._session = self._write_states(self._states)
        self._states = None
        assert self._session is not None
        if self._worker is not None:
            self._steps = self._session.join(self._worker)
        else:
            kinds = {p.dtype for p in self._names}
            half = "bfloat16" if kinds == {torch.bfloat16} else None
            self._steps = self._session.stream(pull=True, wire_dtype=half)
            self._share_gradients(self._steps)
        self._find_targets()
        if self._attaches:
            pulled = self._steps if isinstance(self._steps, Member) else self._session
            pulled.pull(into=self._targets)
            self._accept_parameters()
        self._step = self._session.step_number

    def _create_session(self, session_id: str, **options: Any) -> SessionHandle:
        arrays = {}
        for p, name in self._names.items():
            value = p.detach().cpu()
            wide = value if value.dtype in (torch.float64, torch.complex128) else _to_single(value)
            arrays[name] = numpy_view(wide)
        settings = {**self._options, **self._make_settings(self._values), **options}
        return self._client.create_session(arrays, session_id=session_id, **settings)

    def _attach(self) -> SessionHandle | None:
        """The session that exists, once its parameters are uploaded; None if this worker creates it."""
        if self._worker is not None:
            try:
                return self._create_session(self._session_id)
            except errors.AlreadyExists:
                pass
        session = self._client.session(self._session_id)
        ends = time.monotonic() + UPLOAD_TIMEOUT_S
        while not session.get().ready:
            if time.monotonic() > ends:
                raise TimeoutError(
                    f"the parameters of {session.name} were not uploaded within {UPLOAD_TIMEOUT_S:g} s"
                )
            time.sleep(UPLOAD_POLL_S)
        return session

    def _write_states(self, states: Mapping[str, State]) -> SessionHandle:
        """Returns a session with the states, which takes the place of the present one if there is one."""
        made = self._create_session("", lease=STAGING_LEASE)
        file = SessionFile(made)
        made.delete()
        file.write_states(states, self._torch_rule, self._step)
        content = file.encode()
        if self._session is None:
            return import_complete(self._client, content, self._session_id, self._complete_import)
        return replace_session(self._client, self._session, content, self._complete_import)

    def _complete_import(self, session: SessionHandle) -> None:
        """Gives an imported session what its file has not: its own lease and durability."""
        spec = dataclasses.replace(session.spec, lease=self._options.get("lease"))
        if self._options.get("durability") is not None:
            spec = dataclasses.replace(spec, durability=self._options["durability"])
        session.update(spec)

    def _pull_states(self) -> dict[str, State]:
        """The state on the server, by name."""
        return SessionFile(self.session).read_states(self._names.values(), self._torch_rule)

    def _share_gradients(self, stream: StepStream) -> None:
        """Has gradients written to shared memory as soon as they are complete."""
        if not stream.shares_memory:
            return
        self._find_shared(stream)
        for p in self._names:
            if p.requires_grad:
                self._gradient_hooks.append(p.register_post_accumulate_grad_hook(_make_hook(self._shared)))

    def _find_shared(self, stream: StepStream) -> None:
        arrays = stream.gradients
        if arrays is not self._gradients:
            self._gradients = arrays
            self._shared.clear()
            self._shared.update({p: _tensor_view(arrays[name], p) for p, name in self._names.items()})

    def _find_targets(self) -> None:
        """Finds the arrays that receive the parameters: the model's own memory where they fit."""
        self._received.clear()
        for p, name in self._names.items():
            memory = p.detach()
            if p.device.type != "cpu":
                memory = self._received[p] = torch.empty_like(p, device="cpu")
            self._targets[name] = numpy_view(memory)
        self._record_versions()

    def _record_versions(self) -> None:
        self._versions = {p: (p._version, p.data_ptr()) for p in self._names}

    def _accept_parameters(self) -> None:
        """Completes what has written to the model's memory."""
        for p, value in self._received.items():
            p.copy_(value)
        torch.autograd.graph.increment_version(list(self._names))
        self._record_versions()

    def _push_changed(self) -> None:
        """Sends parameters that were changed since the last step."""
        changed = [p for p, known in self._versions.items() if known != (p._version, p.data_ptr())]
        if changed and self._worker is None:
            arrays = {self._names[p]: numpy_view(p.detach().cpu()) for p in changed}
            self.session.push(arrays, expected_step=self._step)
        if changed:
            self._find_targets()

    def _collect_gradients(self) -> dict[str, Any]:
        gradients: dict[str, Any] = {}
        steps = self._steps
        if self._shared:
            self._find_shared(steps)  # type: ignore[arg-type]
        for p, name in self._names.items():
            grad = p.grad
            if grad is None:
                continue
            if grad.is_sparse and grad.sparse_dim() == 1:
                rows = grad.coalesce()
                gradients[name] = SparseRows(rows.indices()[0].cpu().numpy(), numpy_view(rows.values().cpu()))
                continue
            grad = grad.to_dense() if grad.is_sparse else grad.detach()
            shared = self._shared.get(p)
            if shared is None:
                gradients[name] = numpy_view(grad.cpu().resolve_conj())
                continue
            if grad.data_ptr() != shared.data_ptr():
                shared.copy_(grad)
            gradients[name] = self._gradients[name]  # type: ignore[index]
        return gradients

    def _take_step(self) -> None:
        if all(p.grad is None for p in self._names):
            return
        self.session  # noqa: B018 - opens it, and with it the shared memory
        found_inf = getattr(self, "found_inf", None)
        skips = self._options["gradient"].non_finite is NonFinitePolicy.SKIP
        if found_inf is not None and found_inf.item() and not skips:
            return
        scale = getattr(self, "grad_scale", None)
        factor = 1.0 if scale is None else float(scale)
        if self._is_maximizing():
            factor = -factor
        self._push_changed()
        overrides = self._find_overrides()
        arguments: dict[str, Any] = {"into": self._targets, "overrides": overrides or None}
        if factor != 1.0:
            arguments["loss_scale"] = factor
        assert self._steps is not None
        if isinstance(self._steps, StepStream):
            arguments["expected_step"] = self._step
        self.last_result = self._steps.step(self._collect_gradients(), **arguments)
        self._step = self.last_result.step
        self._accept_parameters()

    def _is_maximizing(self) -> bool:
        kinds = {bool(group.get("maximize")) for group in self.param_groups}
        if len(kinds) > 1:
            raise ValueError("maximize must be the same in all parameter groups")
        return kinds.pop()

    def _find_overrides(self) -> Overrides:
        """The hyperparameters that differ from the session's; those of another formula are changed there."""
        live, found = self._list_groups(), {}
        for name, values in live.items():
            known = self._values[name]
            if values == known:
                continue
            changed = {
                k: v for k, v in values.items() if v != known.get(k) and k not in self._torch_rule.initial
            }
            if any(
                isinstance(v, int) or (k != "learning_rate" and (v == 0) != (known.get(k) == 0))
                for k, v in changed.items()
            ):
                spec = dataclasses.replace(self.session.spec, **self._make_settings(live))
                self.session.update(spec, expected_step=self._step)
                self._values = live
                return {}
            if changed:
                found[name] = changed
        return found

    def _step_and_broadcast(self) -> None:
        """Takes the step in rank 0 and sends every rank the parameters, or the fact that it failed."""
        group, error = self._process_group, None
        root = dist.get_global_rank(group, 0)
        if self._is_stepping:
            try:
                self._take_step()
            except Exception as caught:
                error = caught
        status = torch.tensor([error is None], dtype=torch.int32)
        dist.broadcast(status, root, group=group)
        if error is not None:
            raise error
        if not status.item():
            raise RuntimeError("the step failed in rank 0 of the process group")
        for p in self._names:
            dist.broadcast(p.detach(), root, group=group)
        self._record_versions()

    def _close_steps(self) -> None:
        for hook in self._gradient_hooks:
            hook.remove()
        self._gradient_hooks.clear()
        self._shared.clear()
        self._gradients = None
        steps, self._steps = self._steps, None
        if isinstance(steps, Member):
            steps.leave()
        elif steps is not None:
            steps.close()


def _make_hook(shared: Mapping[torch.Tensor, torch.Tensor]) -> Callable[[torch.Tensor], None]:
    """A hook that moves a gradient to shared memory, where later changes of it are made as well."""

    def move_gradient(p: torch.Tensor) -> None:
        grad, memory = p.grad, shared.get(p)
        if memory is None or grad is None or grad.layout is not torch.strided or grad.requires_grad:
            return
        if (
            grad.dtype == memory.dtype
            and grad.device == memory.device
            and grad.data_ptr() != memory.data_ptr()
        ):
            memory.copy_(grad)
            p.grad = memory

    return move_gradient


def _to_single(value: torch.Tensor) -> torch.Tensor:
    return value.to(torch.complex64 if value.is_complex() else torch.float32)


def _tensor_view(array: Any, p: torch.Tensor) -> torch.Tensor:
    """A tensor of the same memory."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    found = torch.from_numpy(array)
    return torch.view_as_complex(found) if p.is_complex() else found
