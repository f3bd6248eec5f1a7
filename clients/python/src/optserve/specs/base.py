"""Base classes of specifications: immutable values that stand for messages of the contract."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from optserve import coercion
from optserve.formatting import to_record
from optserve.html_tables import render_fields
from optserve.specs import enums

T = TypeVar("T")
K = TypeVar("K", bound="Spec")

ByConvention: TypeAlias = T | None
"""A value whose default depends on the convention: None takes that default, which the docstring lists."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "lr": ("learning_rate", "initial_learning_rate", "peak_learning_rate", "max_learning_rate"),
    "init_value": ("initial_learning_rate", "value"),
    "max_lr": ("max_learning_rate",),
    "peak_value": ("peak_learning_rate", "max_learning_rate", "warmup_target"),
    "end_value": ("end_learning_rate",),
    "transition_steps": ("decay_steps",),
    "betas": ("beta1", "beta2", "beta3"),
    "b1": ("beta1",),
    "b2": ("beta2",),
    "b3": ("beta3",),
    "eps": ("epsilon",),
    "eps_root": ("epsilon_root",),
    "alpha": ("rho",),
    "lr_decay": ("learning_rate_decay",),
    "initial_accumulator_value": ("initial_accumulator",),
    "wd": ("weight_decay",),
    "pos_weight": ("positive_weight",),
}
"""Arguments of PyTorch, optax and Keras, each with the field that it means: the first that a class has.

Case and underscores of a field do not count, so that Keras' beta_1 is beta1.
"""

HINTS: Mapping[str, str] = {
    "amsgrad": "AMSGrad is an optimizer of its own: optimizers.AMSGrad",
    "clipnorm": "clipping is the session's: gradient=Gradient(clip=ClipByTensorNorm(...))",
    "clipvalue": "clipping is the session's: gradient=Gradient(clip=ClipByValue(...))",
    "decay": "a decaying rate is a schedule of the session, and the decay of an average is rho or beta1",
    "dampening": "dampening belongs to optimizers.Momentum",
    "ema_momentum": "an average of the weights is the session's: weight_average=WeightAverage(decay=...)",
    "global_clipnorm": "clipping is the session's: gradient=Gradient(clip=ClipByGlobalNorm(...))",
    "momentum": "momentum is an optimizer of its own: optimizers.Momentum or optimizers.Nesterov",
    "nesterov": "Nesterov's gradient is an optimizer of its own: optimizers.Nesterov, optimizers.NAdam",
    "params": "parameters are given to create_session",
    "use_ema": "an average of the weights is the session's: weight_average=WeightAverage(decay=...)",
    "weight_decay": "an L2 penalty, as in torch.optim.SGD, is gradient=Gradient(l2=...) of the session, and "
    "decoupled decay, as in AdamW, is its decoupled_weight_decay=...",
}
"""Arguments of PyTorch and Keras that mean something elsewhere in a specification."""

SHORT_NAMES: Mapping[str, str] = {"mse": "mean_squared_error", "mae": "mean_absolute_error", "swish": "silu"}
"""Names that other frameworks use, and the contract's own."""


class SpecType(type):
    """Metaclass of specifications: takes other frameworks' names of arguments."""

    if not TYPE_CHECKING:

        def __call__(cls, *args, **kwargs):
            return super().__call__(*args, **rename_arguments(cls, kwargs))

    @property
    def __signature__(cls) -> inspect.Signature:
        own = inspect.signature(vars(cls).get("__init__", object.__init__))
        return own.replace(parameters=list(own.parameters.values())[1:])


class Spec(metaclass=SpecType):
    """A value that represents one message of the contract, field by field.

    Fields are converted when the value is made: names of enum members to members, iterables to
    tuples, numbers of NumPy to Python's, names of algorithms to algorithms with their defaults.

    Raises:
        TypeError: a field holds a value of the wrong type, or there is no such field.
        ValueError: a field holds a value that its type has, but the field cannot.
    """

    MESSAGE: ClassVar[type[Message]]
    BY_MESSAGE: ClassVar[dict[str, type[Spec]]] = {}

    def __init_subclass__(cls, message: type[Message] | None = None) -> None:
        super().__init_subclass__()
        if message is not None:
            cls.MESSAGE = message
            Spec.BY_MESSAGE[message.DESCRIPTOR.full_name] = cls

    def __post_init__(self) -> None:
        cls = type(self)
        for name, field in wire_fields(cls).items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, convert_field_value(field, value, f"{cls.__name__}.{name}"))

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return render_fields(type(self).__name__, to_record(self))

    @classmethod
    def of(cls, value: object, name: str) -> Self:
        """Converts a value to a specification of this kind.

        Args:
            value: one of them, a class of them whose fields all have defaults, or a mapping of field
                names to values.
            name: of the argument, for errors.

        Raises:
            TypeError: the value is none of these, or lacks a required field.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, type) and issubclass(value, cls):
            return make_empty(value, name, value.__name__)
        if isinstance(value, Mapping) and not issubclass(cls, Choice):
            return cls(**value)
        raise TypeError(coercion.error_text(name, value, cls.describe_allowed()))

    @classmethod
    def describe_allowed(cls) -> str:
        """Describes the values that `of` takes, for errors."""
        return f"{with_article(cls.__name__)}, or a dict of its fields: {', '.join(wire_fields(cls))}"


class Choice(Spec):
    """A value that represents one field of a message's oneof, with the message around it.

    A family (``Optimizer``) names the message and its oneof, a member (``Adam``) its field.
    """

    ONEOF: ClassVar[str]
    FIELD: ClassVar[str] = ""
    CHOICES: ClassVar[dict[str, type[Choice]]]

    def __init_subclass__(
        cls, message: type[Message] | None = None, oneof: str | None = None, field: str | None = None
    ) -> None:
        super().__init_subclass__(message=message)
        if oneof is not None:
            cls.ONEOF, cls.CHOICES = oneof, {}
        if field is not None:
            cls.FIELD = field
            cls.CHOICES[field] = cls

    @classmethod
    def of(cls, value: object, name: str) -> Self:
        """Converts a value to a member of this family; also accepts its name in any spelling, as ``adam``.

        Raises:
            TypeError: the value is none, or its member has a required field.
            ValueError: the family has no member of that name.
        """
        if not isinstance(value, str):
            return super().of(value, name)
        found = cls.find(value)
        if found is None:
            close = difflib.get_close_matches(value.lower(), cls.CHOICES, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(coercion.error_text(name, value, f"one of {', '.join(cls.CHOICES)}{hint}"))
        return make_empty(cast("type[Self]", found), name, value)

    @classmethod
    def find(cls, name: str) -> type[Choice] | None:
        """Finds a member by its name, ignoring case, hyphens and underscores; None if the family has none."""
        wanted = normalize_name(SHORT_NAMES.get(name.lower(), name))
        return next(
            (c for f, c in cls.CHOICES.items() if wanted in (normalize_name(f), normalize_name(c.__name__))),
            None,
        )

    @classmethod
    def describe_allowed(cls) -> str:
        """Describes the values that `of` takes, for errors."""
        examples = ", ".join(list(cls.CHOICES)[:4])
        return f"{with_article(cls.__name__)}, or the name of one, such as {examples}"


def make_empty(cls: type[K], name: str, written: str) -> K:
    """Makes a specification without arguments.

    Raises:
        TypeError: a field has no default.
    """
    missing = list_required(cls)
    if missing:
        fields = ", ".join(f"{field}=..." for field in missing)
        raise TypeError(f"{name} is {written!r}, which needs more: {cls.__name__}({fields})")
    return cls()


def list_required(cls: type[Spec]) -> list[str]:
    """Lists the fields that have no default."""
    fields = dataclasses.fields(cast(Any, cls))
    return [field.name for field in fields if field.default is dataclasses.MISSING]


def rename_arguments(cls: type[Spec], given: Mapping[str, object]) -> dict[str, object]:
    """Renames arguments to the fields that they set.

    Raises:
        TypeError: there is no such field, or it is given twice.
    """
    fields = wire_fields(cls)
    found: dict[str, object] = {}
    for key, value in given.items():
        for name, one in _resolve_argument(cls, fields, key, value):
            if name in found:
                raise TypeError(f"{cls.__name__}.{name} is given twice, once as {key}")
            found[name] = one
    return found


def _resolve_argument(
    cls: type[Spec], fields: Mapping[str, FieldDescriptor], key: str, value: object
) -> Iterable[tuple[str, object]]:
    """Returns the fields that one argument sets, with their values."""
    if key in fields:
        return [(key, value)]
    known = {normalize_name(field): field for field in fields}
    meant = [normalize_name(name) for name in (key, *ALIASES.get(key, ()))]
    targets = [known[name] for name in meant if name in known]
    if not targets:
        raise TypeError(_unknown_field_text(cls, fields, key))
    if key != "betas":
        return [(targets[0], value)]
    betas = coercion.to_tuple(value, f"{cls.__name__}.betas", coercion.to_float)
    if len(betas) != len(targets):
        raise TypeError(coercion.error_text(f"{cls.__name__}.betas", value, f"{len(targets)} numbers"))
    return zip(targets, betas, strict=True)


def _unknown_field_text(cls: type[Spec], fields: Mapping[str, FieldDescriptor], key: str) -> str:
    close = difflib.get_close_matches(key, fields, 1)
    hint = HINTS.get(key) or (f"did you mean {close[0]}?" if close else "")
    known = f"its fields are {', '.join(fields)}" if fields else "it has no fields"
    return f"{cls.__name__} has no field {key!r}{'; ' + hint if hint else ''}; {known}"


@functools.cache
def wire_fields(cls: type[Spec]) -> Mapping[str, FieldDescriptor]:
    """The message fields that a specification's own stand for, by name."""
    outer: Any = cls.MESSAGE.DESCRIPTOR
    member = getattr(cls, "FIELD", "")
    inner = outer.fields_by_name[member].message_type if member else outer
    found: dict[str, FieldDescriptor] = {}
    for name in (field.name for field in dataclasses.fields(cast(Any, cls))):
        found[name] = inner.fields_by_name.get(name) or outer.fields_by_name[name]
    return found


def convert_field_value(field: FieldDescriptor, value: object, name: str) -> object:
    """The value of a field, in the type that its descriptor says.

    Args:
        field: of the message.
        value: as it was given; not None.
        name: of the field, for errors.

    Raises:
        TypeError: the value has another type.
        ValueError: it does not fit.
    """
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        given = coercion.to_mapping(cast("Mapping[str, object]", value), name)
        return {
            coercion.to_string(key, f"a name in {name}"): _convert_item(
                entry.fields_by_name["value"], v, f"{name}[{key!r}]"
            )
            for key, v in given.items()
        }
    if field.is_repeated:
        return coercion.to_tuple(value, name, functools.partial(_convert_item, field))
    return _convert_item(field, value, name)


SCALARS: Mapping[int, Callable[[object, str], object]] = {
    FieldDescriptor.CPPTYPE_DOUBLE: coercion.to_float,
    FieldDescriptor.CPPTYPE_INT64: coercion.to_int,
    FieldDescriptor.CPPTYPE_INT32: functools.partial(coercion.to_int, bits=32),
    FieldDescriptor.CPPTYPE_BOOL: coercion.to_bool,
    FieldDescriptor.CPPTYPE_STRING: coercion.to_string,
}


def _convert_item(field: FieldDescriptor, value: object, name: str) -> object:
    if field.message_type is not None:
        return Spec.BY_MESSAGE[field.message_type.full_name].of(value, name)
    if field.enum_type is not None:
        return coercion.to_enum_member(enums.find_enum(field.enum_type.name), value, name)
    if isinstance(value, Choice):
        allowed = "a number; schedules are given as schedule=... of the session"
        raise TypeError(coercion.error_text(name, value, allowed))
    return SCALARS[field.cpp_type](value, name)


def normalize_name(name: str) -> str:
    """A name without case, hyphens, underscores and blanks."""
    return name.lower().translate(str.maketrans("", "", "-_ "))


def with_article(noun: str) -> str:
    """The noun with its article."""
    return f"{'an' if noun[0] in 'AEIOU' else 'a'} {noun}"
