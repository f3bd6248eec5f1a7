"""The specification classes are the contract, field by field."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from enum import Enum, IntEnum
from typing import Any, cast

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

import optserve
from optserve import spec, v1
from optserve.spec import Choice, Spec, decode_spec, encode_spec
from optserve.specs import enums
from optserve_server.hyperparameters import REQUIRED, declarations
from optserve_server.wire.specifications.specs import FAMILIES, algorithm_from, reduction_from

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


def test_digits_join_the_word_before_them():
    """Generators of other languages agree on the camel case of beta1, not on that of beta_1."""
    fields = [field.full_name for message in MESSAGES.values() for field in message.fields]
    values = [value.name for enum in ENUMS.values() for value in enum.values]
    assert [name for name in (*MESSAGES, *ENUMS, *fields, *values) if re.search(r"_\d", name)] == []


def test_every_specification_has_a_class():
    classes = set(Spec.BY_MESSAGE)
    members = {f.message_type.full_name for name in families() for f in choices(MESSAGES[name])}
    assert {MESSAGES[name].full_name for name in SPECS} <= classes | members


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_every_enum_is_the_contracts(name):
    prefix = {value.name for value in ENUMS[name].values if value.number == 0}.pop().removesuffix(
        "UNSPECIFIED"
    )
    ours = {f"{prefix}{member.name}": member.value for member in enums.find_enum(name)}
    assert ours == {value.name: value.number for value in ENUMS[name].values if value.number}


def fill(message: Descriptor, choice: str | None = None, depth: int = 0) -> Message:
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
            getattr(made, field.name).append(fill(field.message_type, depth=depth + 1))
        else:
            getattr(made, field.name).CopyFrom(fill(field.message_type, depth=depth + 1))
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
    message = fill(MESSAGES[name], choice)
    value = decode_spec(message)
    assert type(value).__name__ != Spec.BY_MESSAGE[message.DESCRIPTOR.full_name].__name__
    assert encode_spec(value) == message


def test_a_whole_session_specification_survives():
    message = fill(MESSAGES["SessionSpec"])
    assert encode_spec(decode_spec(message)) == message


def test_what_the_signature_shows_is_sent_and_what_it_leaves_to_the_convention_is_not():
    message = encode_spec(optserve.optimizers.Adam(learning_rate=0.5))
    assert message.adam.learning_rate == 0.5
    assert message.adam.beta1 == 0.9
    assert not message.adam.HasField("epsilon")
    assert message.adam.bias_correction == 0
    assert decode_spec(message) == optserve.optimizers.Adam(learning_rate=0.5)


def test_a_rate_that_is_not_stated_stays_unset():
    assert not encode_spec(optserve.optimizers.Lion()).lion.HasField("learning_rate")


def test_an_empty_choice_is_still_chosen():
    assert encode_spec(optserve.activations.ReLU()).WhichOneof("activation") == "relu"


def test_a_family_by_itself_cannot_be_sent():
    with pytest.raises(ValueError, match="family"):
        encode_spec(optserve.optimizers.Optimizer())


def test_a_value_of_the_wrong_type_is_refused():
    with pytest.raises(TypeError, match=r"Adam\.learning_rate is 'fast', but must be a number"):
        optserve.optimizers.Adam(learning_rate="fast")


def test_a_choice_newer_than_the_client_is_its_family():
    message = MESSAGES["OptimizerSpec"]._concrete_class(convention=2)
    assert decode_spec(message) == optserve.optimizers.Optimizer(convention=optserve.TORCH)
    assert spec.member_or_none(optserve.Convention, 99) is None


def test_what_is_required_has_no_default_and_may_be_given_by_position():
    assert optserve.ClipByGlobalNorm(1.0) == optserve.ClipByGlobalNorm(max_norm=1.0)
    parameters = inspect.signature(optserve.schedules.Exponential).parameters
    required = [name for name, p in parameters.items() if p.default is inspect.Parameter.empty]
    assert required == ["initial_learning_rate", "decay_steps", "decay_rate"]


# ---- What is generated from the server's declarations ----------------------

RULES = [
    pytest.param(cast(Any, Spec.BY_MESSAGE[name]).CHOICES[field], registry[field], id=field)
    for name, registry in FAMILIES.items()
    for field in registry
]


def document_of(cls: type, field: str) -> str:
    """What a class' docstring says of one field, on one line."""
    attributes = inspect.getdoc(cls).partition("Attributes:")[2]
    found: Any = re.search(rf"^    {field}: (.*?)(?=^    \S|\Z)", attributes, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split())


def same(shown: object, default: object) -> bool:
    """Whether the client's default is the server's: enums by name, the rest by type and value."""
    if isinstance(default, Enum):
        return isinstance(shown, IntEnum) and shown.name == default.name
    return type(shown) is type(default) and shown == default


@pytest.mark.parametrize(("cls", "rule"), RULES)
def test_signatures_show_the_servers_defaults(cls, rule):
    parameters = inspect.signature(cls).parameters
    for name, declaration in declarations(rule).items():
        shown, defaults = parameters[name].default, list(declaration.defaults.values())
        if defaults[0] is REQUIRED:
            assert shown in (inspect.Parameter.empty, ())
        elif name == "learning_rate":
            assert shown is None, "a rate beside a schedule is refused, so it must be known to be unstated"
        elif all(default == defaults[0] for default in defaults):
            assert same(shown, defaults[0]) or (defaults[0] == () and shown in (None, ()))
        else:
            assert shown is None
            assert "ByConvention" in parameters[name].annotation


@pytest.mark.parametrize(("cls", "rule"), RULES)
def test_docstrings_say_source_formula_range_and_each_conventions_default(cls, rule):
    text = inspect.getdoc(cls)
    source = sys.modules[rule.__module__].__doc__.split("\n\n")[0]
    assert text.startswith(" ".join(source.split()).rstrip("."))
    assert inspect.getdoc(rule).partition("\n")[0].partition("In the frame")[0].strip() in text
    for name, declaration in declarations(rule).items():
        said = document_of(cls, name)
        assert declaration.range_text().lower() in said.lower()
        for convention, default in declaration.defaults.items():
            if isinstance(default, Enum | bool | int | float) and "unset" not in said:
                assert default_of(said, convention.name) == default, (name, convention)


def default_of(said: str, convention: str) -> object:
    """The default under a convention as a docstring tells it: the common one, or that beside its name."""
    listed = re.search(rf"(?:Default:|\),) (\S+) \([A-Z, ]*\b{convention}\b", said)
    found: Any = listed or re.search(r"Default: (\S+?)\.$", said)
    value = found[1]
    return value if value.isupper() else ast.literal_eval(value)


@pytest.mark.parametrize(("cls", "rule"), RULES)
def test_classes_are_spelt_as_the_servers(cls, rule):
    assert cls.__name__ in {rule.__name__ + ending for ending in ("", "Schedule", "Activation")}


SPELLINGS = """
    SGD RMSprop AdamW AMSGrad NAdam RAdam AdaBelief LAMB LARS FTRL ADOPT Adan Lion Yogi FedAvgM FedAdagrad
    FedAdam FedYogi Adagrad Adadelta Adamax Rprop Adafactor Muon Prodigy ScheduleFreeSGD ScheduleFreeAdamW
"""


def test_optimizers_are_spelt_as_the_field_spells_them():
    ours = {cls.__name__ for cls in optserve.optimizers.Optimizer.CHOICES.values()}
    assert ours == {*SPELLINGS.split(), "Adam", "Momentum", "Nesterov"}


def test_defaults_beside_a_choice_are_the_servers():
    for spec_class in (optserve.optimizers.SGD, optserve.activations.ReLU, optserve.losses.Huber):
        message = spec_class.MESSAGE()
        getattr(message, spec_class.FIELD).SetInParent()
        assert spec_class().convention.name == algorithm_from(message).convention.name
    assert optserve.losses.Huber().reduction.name == reduction_from(message).name


@pytest.mark.parametrize(
    "name", ["optimizers", "schedules", "losses", "activations", "initializers", "layers"]
)
def test_public_modules_have_every_class_of_their_family(name):
    public, generated = (importlib.import_module(f"optserve.{part}{name}") for part in ("", "specs."))
    defined = {n for n, c in vars(generated).items() if getattr(c, "__module__", "") == generated.__name__}
    assert set(public.__all__) == defined
    assert all(getattr(public, n) is getattr(generated, n) for n in defined)
