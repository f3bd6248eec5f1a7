"""Specifications: one conversion for every family, driven by descriptors and dataclasses.

There are three kinds of message:
an *algorithm* (``OptimizerSpec``: a convention and a oneof whose field is the registry
key), which becomes a `Chosen`; a *variant* (``ClipSpec``: a bare oneof), which becomes
the dataclass named for message and field; and a *record*, whose fields are those of a
dataclass. Scalars are read where they are set and written where they are not None, so
defaults stay in the dataclasses and an echo states all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Hashable, Mapping
from enum import Enum
from typing import Any, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

from optserve.v1.activation_spec_pb2 import ActivationSpec
from optserve.v1.convention_pb2 import Convention as WireConvention
from optserve.v1.initializer_spec_pb2 import InitializerSpec
from optserve.v1.loss_spec_pb2 import LossReduction, LossSpec
from optserve.v1.network_spec_pb2 import LayerSpec
from optserve.v1.optimizer_spec_pb2 import OptimizerSpec
from optserve.v1.schedule_spec_pb2 import ScheduleSpec
from optserve.v1.session_pb2 import SessionSpec as SessionSpecMessage
from optserve_server import activations, complexity, initializers, losses, optimizers, schedules
from optserve_server.errors import DomainError, Reason, within
from optserve_server.hyperparameters import Chosen, Convention, Hyperparameters
from optserve_server.losses.base import Reduction
from optserve_server.registry import Registry
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.wire.fields.enums import enum_member, enum_number

FAMILIES: Mapping[str, Registry[Any]] = {
    OptimizerSpec.DESCRIPTOR.full_name: optimizers.REGISTRY,
    ScheduleSpec.DESCRIPTOR.full_name: schedules.REGISTRY,
    LossSpec.DESCRIPTOR.full_name: losses.REGISTRY,
    ActivationSpec.DESCRIPTOR.full_name: activations.REGISTRY,
    InitializerSpec.DESCRIPTOR.full_name: initializers.REGISTRY,
    LayerSpec.DESCRIPTOR.full_name: complexity.REGISTRY,
}
"""The registry behind each message that chooses an algorithm."""

Field: TypeAlias = Any
"""A field's descriptor. The type checker knows two of them, of which it cannot tell the right one."""

_CONVENTION, _OPTIMIZER = "convention", "optimizer"


def session_spec_from(message: SessionSpecMessage) -> SessionSpec:
    """A session's specification, resolved; fields of errors are paths within ``message``."""
    spec: SessionSpec = _decode_record(message, SessionSpec, Convention.KERAS)
    return spec


def session_spec_to(spec: SessionSpec) -> SessionSpecMessage:
    """The echo of a specification, which asks for the same when it is sent back."""
    message = SessionSpecMessage()
    _fill_from_dataclass(message, spec)
    if spec.schedule is not None:
        # Beside a schedule an optimizer's own rate has no effect, and setting it is rejected.
        for optimizer in [message.optimizer, *(group.optimizer for group in message.groups)]:
            _clear_default_learning_rate(optimizer)
    return message


def algorithm_from(message: Message, inherited: Convention = Convention.KERAS) -> Chosen[Any]:
    """The algorithm that a message of one of `FAMILIES` chooses, resolved.

    Args:
        message: the message.
        inherited: the convention where the message states none.

    Raises:
        DomainError: FIELD_REQUIRED if nothing is chosen, UNSUPPORTED_VALUE if the
            choice is unknown, or what the algorithm's own fields raise; fields are paths
            within ``message``.
    """
    family = FAMILIES[message.DESCRIPTOR.full_name]
    name = _get_chosen_variant(message)
    if name not in family:
        raise DomainError(Reason.UNSUPPORTED_VALUE, f"this server has no {name} in {family.family}")
    convention = _resolve_convention(message, inherited)
    with within(name):
        algorithm: type[Hyperparameters] = family[name]
        given = _decode_set_fields(getattr(message, name), algorithm, convention)
        return Chosen(algorithm.resolve(given, convention), convention, frozenset(given))


def write_algorithm(message: Message, chosen: Chosen[Any]) -> None:
    """Writes an algorithm into a message of one of `FAMILIES`, every field stated."""
    if _CONVENTION in message.DESCRIPTOR.fields_by_name:
        setattr(message, _CONVENTION, enum_number(chosen.convention, WireConvention.DESCRIPTOR))
    inner: Message = getattr(message, chosen.algorithm.name)
    inner.SetInParent()
    _fill_from_dataclass(inner, chosen.algorithm)


def reduction_from(message: LossSpec) -> Reduction:
    """How per-example losses become one value."""
    with within("reduction"):
        number = message.reduction
        if not number:
            return Reduction.SUM_OVER_BATCH_SIZE
        return enum_member(Reduction, LossReduction.DESCRIPTOR, number)


def write_loss(message: LossSpec, chosen: Chosen[Any], reduction: Reduction) -> None:
    """Writes a loss, every field stated."""
    write_algorithm(message, chosen)
    message.reduction = LossReduction.ValueType(enum_number(reduction, LossReduction.DESCRIPTOR))


def find_oneof(descriptor: Any) -> Any:
    """The oneof of a message, optional scalars left aside."""
    return next((o for o in descriptor.oneofs if len(o.fields) > 1), None)


def _decode_record(message: Message, kind: type[Hyperparameters], convention: Convention) -> Any:
    convention = _resolve_convention(message, convention)
    given = _decode_set_fields(message, kind, convention)
    return kind.resolve(given, convention)


def _decode_set_fields(message: Message, kind: type[Any], convention: Convention) -> dict[str, object]:
    """The fields that are set, and the records that have no None to stand for unset."""
    given: dict[str, object] = {}
    hints = _field_types(cast(Hashable, kind))
    for field in message.DESCRIPTOR.fields:
        hint, optional = hints[field.name]
        if _is_set(message, field) or (_is_record(hint) and not optional):
            with within(field.name):
                given[field.name] = _decode_field_value(field, getattr(message, field.name), hint, convention)
    return given


def _decode_field_value(field: Field, raw: Any, hint: Any, convention: Convention) -> Any:
    """One field's value as the dataclass wants it."""
    if _is_map(field):
        return tuple(sorted(raw.items()))
    if get_origin(hint) is tuple:
        return tuple(_decode_items(field, raw, get_args(hint)[0], convention))
    if field.enum_type is not None:
        return enum_member(hint, field.enum_type, raw)
    if field.message_type is None:
        return raw
    if field.message_type.full_name in FAMILIES:
        return algorithm_from(raw, _inherit_convention(field, convention))
    if isinstance(hint, types.UnionType):
        return _decode_variant(raw, get_args(hint), convention)
    return _decode_record(raw, hint, convention)


def _decode_items(field: Field, raw: Any, hint: Any, convention: Convention) -> list[Any]:
    if field.message_type is None:
        return list(raw)
    items = []
    for index, item in enumerate(raw):
        with within(f"[{index}]"):
            if field.message_type.full_name in FAMILIES:
                items.append(algorithm_from(item, _inherit_convention(field, convention)))
            else:
                items.append(_decode_record(item, hint, convention))
    return items


def _inherit_convention(field: Field, convention: Convention) -> Convention:
    """An algorithm within one of its own family follows that one's convention, another none."""
    family = {choice.message_type for choice in field.message_type.fields}
    return convention if field.containing_type in family else Convention.KERAS


def _decode_variant(message: Message, kinds: tuple[type[Any], ...], convention: Convention) -> Any:
    if find_oneof(message.DESCRIPTOR) is None:
        return _decode_record(message, kinds[0], convention)
    name = _get_chosen_variant(message)
    kind = next(k for k in kinds if k.__name__ == _variant_class_name(message.DESCRIPTOR, name))
    with within(name):
        return _decode_record(getattr(message, name), kind, convention)


def _variant_class_name(descriptor: Any, field: str) -> str:
    """``ClipSpec`` and ``by_tensor_norm`` make ``ClipByTensorNorm``."""
    return str(descriptor.name).removesuffix("Spec") + field.title().replace("_", "")


def _get_chosen_variant(message: Message) -> str:
    oneof = find_oneof(message.DESCRIPTOR)
    assert oneof is not None  # a message without a choice is never asked for one
    name = message.WhichOneof(oneof.name)
    if name is None:
        options = ", ".join(field.name for field in oneof.fields)
        raise DomainError(Reason.FIELD_REQUIRED, f"one of {options} is required")
    return str(name)


def _resolve_convention(message: Message, inherited: Convention) -> Convention:
    """The message's own convention, that of its optimizer, or the one around it."""
    fields = message.DESCRIPTOR.fields_by_name
    if _CONVENTION in fields:
        number = getattr(message, _CONVENTION)
        with within(_CONVENTION):
            return enum_member(Convention, WireConvention.DESCRIPTOR, number) if number else inherited
    if _OPTIMIZER in fields and message.HasField(_OPTIMIZER):
        with within(_OPTIMIZER):
            return _resolve_convention(getattr(message, _OPTIMIZER), inherited)
    return inherited


def _fill_from_dataclass(message: Message, value: Any) -> None:
    """Writes a dataclass into its message."""
    for field in message.DESCRIPTOR.fields:
        item = getattr(value, field.name, None)
        if item is None:
            continue
        if _is_map(field):
            getattr(message, field.name).update(item)
        elif isinstance(item, tuple):
            _encode_items(getattr(message, field.name), item)
        elif isinstance(item, Enum):
            setattr(message, field.name, enum_number(item, cast(EnumDescriptor, field.enum_type)))
        elif field.message_type is None:
            setattr(message, field.name, item)
        else:
            _encode_field_values(getattr(message, field.name), item)


def _encode_field_values(message: Message, value: Any) -> None:
    if isinstance(value, Chosen):
        write_algorithm(message, value)
        return
    oneof = find_oneof(message.DESCRIPTOR)
    if oneof is not None:
        names = {_variant_class_name(message.DESCRIPTOR, field.name): field.name for field in oneof.fields}
        message = getattr(message, names[type(value).__name__])
    message.SetInParent()
    _fill_from_dataclass(message, value)


def _encode_items(container: Any, items: tuple[Any, ...]) -> None:
    for item in items:
        if isinstance(item, Chosen):
            write_algorithm(container.add(), item)
        elif dataclasses.is_dataclass(item):
            _fill_from_dataclass(container.add(), item)
        else:
            container.append(item)


def _clear_default_learning_rate(optimizer: OptimizerSpec) -> None:
    name = optimizer.WhichOneof("algorithm")
    if name is not None:
        getattr(optimizer, name).ClearField("learning_rate")


def _is_set(message: Message, field: Field) -> bool:
    if field.has_presence:
        return message.HasField(field.name)
    return bool(getattr(message, field.name))


def _is_map(field: Field) -> bool:
    """Whether a field is a map: in a dataclass, a tuple of its items in the order of their keys."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _is_record(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


@functools.cache
def _field_types(kind: Hashable) -> dict[str, tuple[Any, bool]]:
    """The declared type of each field, ``X | None`` as X, and whether it may be None."""
    return {name: _strip_none_type(hint) for name, hint in get_type_hints(cast(type[Any], kind)).items()}


def _strip_none_type(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    kinds = [kind for kind in get_args(hint) if kind is not types.NoneType]
    return functools.reduce(lambda a, b: a | b, kinds), types.NoneType in get_args(hint)
