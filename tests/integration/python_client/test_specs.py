"""The specification classes are the contract, field by field."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

import optserve
from optserve import enums, spec, v1
from optserve.spec import Choice, Spec, decode, encode

MODULES = [importlib.import_module(f"optserve.v1.{m.name}") for m in pkgutil.iter_modules(v1.__path__)]
FILES: list[FileDescriptor] = [m.DESCRIPTOR for m in MODULES if m.__name__.endswith("_pb2")]
MESSAGES: dict[str, Descriptor] = {name: m for f in FILES for name, m in f.message_types_by_name.items()}
ENUMS: dict[str, EnumDescriptor] = {name: e for f in FILES for name, e in f.enum_types_by_name.items()}
SPECS = [name for name in MESSAGES if name.endswith("Spec")]


def choices(message: Descriptor) -> list[FieldDescriptor]:
    """The fields of a message's real oneof."""
    return [f for f in message.fields if f.containing_oneof and len(f.containing_oneof.fields) > 1]


def families() -> list[str]:
    return [name for name in SPECS if choices(MESSAGES[name])]


def field_names(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def test_there_are_families_and_enums_to_check():
    assert len(families()) >= 6
    assert len(ENUMS) >= 10


@pytest.mark.parametrize("name", families())
def test_every_choice_of_a_family_has_a_class_with_its_fields(name):
    message = MESSAGES[name]
    family = Spec.BY_MESSAGE[message.full_name]
    assert issubclass(family, Choice)
    fields = {field.name: field for field in choices(message)}
    common = {field.name for field in message.fields} - set(fields)
    assert set(family.CHOICES) == set(fields)
    for key, cls in family.CHOICES.items():
        assert field_names(cls) == common | set(fields[key].message_type.fields_by_name), cls


@pytest.mark.parametrize("name", ["SessionSpec", "GradientSpec", "WeightAverageSpec", "ParameterGroup"])
def test_every_plain_specification_has_its_fields(name):
    cls = Spec.BY_MESSAGE[MESSAGES[name].full_name]
    assert field_names(cls) == set(MESSAGES[name].fields_by_name)


def test_every_specification_has_a_class():
    classes = set(Spec.BY_MESSAGE)
    members = {f.message_type.full_name for name in families() for f in choices(MESSAGES[name])}
    assert {MESSAGES[name].full_name for name in SPECS} <= classes | members


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_every_enum_is_the_contracts(name):
    prefix = {value.name for value in ENUMS[name].values if value.number == 0}.pop().removesuffix(
        "UNSPECIFIED"
    )
    ours = {f"{prefix}{member.name}": member.value for member in getattr(enums, name)}
    assert ours == {value.name: value.number for value in ENUMS[name].values if value.number}


def filled(message: Descriptor, choice: str | None = None, depth: int = 0) -> Message:
    """A message with every field set, and of its oneof the named field, or the first."""
    made: Message = GetMessageClass(message)()
    oneof = choices(message)
    for number, field in enumerate(message.fields, 1):
        if field in oneof and field.name != (choice or oneof[0].name):
            continue
        put(made, field, number, depth)
    return made


def put(made: Message, field: FieldDescriptor, number: int, depth: int) -> None:
    if field.message_type:
        if field.message_type.GetOptions().map_entry:
            getattr(made, field.name).update({"b": 0.5, "a": number})
        elif field.is_repeated:
            getattr(made, field.name).append(filled(field.message_type, depth=depth + 1))
        else:
            getattr(made, field.name).CopyFrom(filled(field.message_type, depth=depth + 1))
        return
    if field.enum_type:
        value: object = field.enum_type.values[-1].number
    else:
        value = {"str": f"name-{number}", "bytes": b"", "float": number + 0.5, "int": number, "bool": True}[
            type(field.default_value).__name__ if not field.is_repeated else scalar(field)
        ]
    if field.is_repeated:
        getattr(made, field.name).extend([value, value])
    else:
        setattr(made, field.name, value)


def scalar(field: FieldDescriptor) -> str:
    return {FieldDescriptor.CPPTYPE_STRING: "str", FieldDescriptor.CPPTYPE_DOUBLE: "float"}.get(
        field.cpp_type, "int"
    )


def every_choice() -> Iterator[tuple[str, str]]:
    for name in families():
        for field in choices(MESSAGES[name]):
            yield name, field.name


@pytest.mark.parametrize(("name", "choice"), list(every_choice()))
def test_nothing_is_lost_on_the_way_to_a_value_and_back(name, choice):
    message = filled(MESSAGES[name], choice)
    value = decode(message)
    assert type(value).__name__ != Spec.BY_MESSAGE[message.DESCRIPTOR.full_name].__name__
    assert encode(value) == message


def test_a_whole_session_specification_survives():
    message = filled(MESSAGES["SessionSpec"])
    assert encode(decode(message)) == message


def test_an_unset_field_stays_unset():
    message = encode(optserve.optimizers.Adam(learning_rate=0.5))
    assert message.adam.HasField("learning_rate")
    assert not message.adam.HasField("beta_1")
    assert message.convention == 0
    assert decode(message) == optserve.optimizers.Adam(learning_rate=0.5)


def test_an_empty_choice_is_still_chosen():
    assert encode(optserve.activations.Relu()).WhichOneof("activation") == "relu"


def test_a_family_by_itself_cannot_be_sent():
    with pytest.raises(ValueError, match="family"):
        encode(optserve.optimizers.Optimizer())


def test_a_value_of_the_wrong_type_is_refused():
    with pytest.raises(TypeError):
        encode(optserve.optimizers.Adam(learning_rate="fast"))


def test_a_choice_newer_than_the_client_is_its_family():
    message = MESSAGES["OptimizerSpec"]._concrete_class(convention=2)
    assert decode(message) == optserve.optimizers.Optimizer(convention=optserve.TORCH)
    assert spec.known(optserve.Convention, 99) is None


def test_what_is_required_has_no_default_and_may_be_given_by_position():
    assert optserve.ClipByGlobalNorm(1.0) == optserve.ClipByGlobalNorm(max_norm=1.0)
    parameters = inspect.signature(optserve.schedules.Exponential).parameters
    required = [name for name, p in parameters.items() if p.default is inspect.Parameter.empty]
    assert required == ["initial_learning_rate", "decay_steps", "decay_rate"]
