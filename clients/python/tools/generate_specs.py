"""Generates the client's specification classes and enums from the contract and the server's rules.

    python clients/python/tools/generate_specs.py proto clients/python/src/optserve

Every ``*Spec`` message becomes a frozen dataclass in ``optserve/specs``, every enum an ``IntEnum``
with the wire's numbers. Fields and their comments come from the contract; spelling, formula, source,
ranges and defaults from the server's declarations. A field whose comment says "Required." has no
default and may be given by position, as may an optimizer's learning rate. The public modules beside
the package import what it defines.
"""

from __future__ import annotations

import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc
from server_rules import (
    algorithm,
    common_default,
    declarations_of,
    default_text,
    depends,
    enum_names,
    formula,
    literal,
    records,
    source,
)

from optserve_server.hyperparameters import Declaration

WIDTH = 110
PACKAGE = "optserve/v1"
# Module to write: file of the contract, the message that all others hang from, and a title.
MODULES = {
    "optimizers": ("optimizer_spec", "OptimizerSpec", "Optimizers"),
    "schedules": ("schedule_spec", "ScheduleSpec", "Learning-rate schedules"),
    "losses": ("loss_spec", "LossSpec", "Losses"),
    "activations": ("activation_spec", "ActivationSpec", "Activations"),
    "initializers": ("initializer_spec", "InitializerSpec", "Initializers"),
    "layers": ("network_spec", "NetworkSpec", "Layers"),
    "session_spec": ("session", "SessionSpec", "Specification of a session"),
}
PUBLIC = ("optimizers", "schedules", "losses", "activations", "initializers", "layers", "enums")
# Fields that are set in addition to a family's choice, and their defaults in `wire.specifications.specs`.
FAMILY_DEFAULTS = {
    ("OptimizerSpec", "convention"): "Convention.KERAS",
    ("LossSpec", "convention"): "Convention.KERAS",
    ("LossSpec", "reduction"): "LossReduction.SUM_OVER_BATCH_SIZE",
    ("ActivationSpec", "convention"): "Convention.KERAS",
}
# A rate beside a schedule is refused, so that an unstated one must stay unset.
UNSTATED = ("OptimizerSpec", "learning_rate")
SCALARS = {
    FieldDescriptorProto.TYPE_DOUBLE: "float",
    FieldDescriptorProto.TYPE_INT32: "int",
    FieldDescriptorProto.TYPE_INT64: "int",
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_STRING: "str",
}
MESSAGE, ENUM, REPEATED = (
    FieldDescriptorProto.TYPE_MESSAGE,
    FieldDescriptorProto.TYPE_ENUM,
    FieldDescriptorProto.LABEL_REPEATED,
)
Fields = list[FieldDescriptorProto]
ENUMS_TITLE = "Enums of the contract, without their UNSPECIFIED members"


def main() -> None:
    """Writes every module into the folder named on the command line."""
    proto_root, target = Path(sys.argv[1]), Path(sys.argv[2])
    contract = Contract(compile_protos(proto_root))
    modules = {name: Module(contract, name) for name in MODULES}
    texts = {f"specs/{name}": module.text() for name, module in modules.items()}
    texts["specs/enums"] = enums_text(contract)
    for name in PUBLIC:
        classes = (
            modules[name].names if name in modules else [contract.enum_name(e) for e in contract.enums()]
        )
        texts[name] = public_text(name, classes)
    (target / "specs").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (target / f"{name}.py").write_text(text, encoding="utf-8")


def compile_protos(root: Path) -> FileDescriptorSet:
    """Runs protoc and returns the contract with its comments."""
    sources = sorted(str(path) for path in (root / PACKAGE).glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "contract.binpb"
        flags = [f"--proto_path={root}", f"--descriptor_set_out={out}", "--include_source_info"]
        include = Path(protoc.__file__).parent / "_proto"
        if protoc.main(["protoc", *flags, f"--proto_path={include}", *sources]) != 0:
            raise SystemExit("protoc refused the contract")
        return FileDescriptorSet.FromString(out.read_bytes())


class Contract:
    """The contract's files, messages and enums by name, with their comments."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self.files = {Path(file.name).stem: file for file in files.file}
        self.comments: dict[tuple[str, ...], str] = {}
        self.home: dict[str, str] = {}
        for stem, file in self.files.items():
            spots = {tuple(spot.path): spot.leading_comments for spot in file.source_code_info.location}
            for i, message in enumerate(file.message_type):
                self.home[message.name] = stem
                self.comments[(message.name,)] = clean(spots.get((4, i), ""))
                for j, field in enumerate(message.field):
                    self.comments[(message.name, field.name)] = clean(spots.get((4, i, 2, j), ""))
            for i, enum in enumerate(file.enum_type):
                self.comments[(enum.name,)] = clean(spots.get((5, i), ""))
                for j, value in enumerate(enum.value):
                    self.comments[(enum.name, value.name)] = clean(spots.get((5, i, 2, j), ""))
        self.records = records()
        self.spelling = enum_names()
        python = self.python_names()
        pattern = re.compile(r"\b(" + "|".join(sorted(python, key=len, reverse=True)) + r")\b")
        self.comments = {
            key: pattern.sub(lambda match: python[match[0]], text) for key, text in self.comments.items()
        }

    def python_names(self) -> dict[str, str]:
        """Names of the contract's messages and enum values, as they occur in comments, and Python's."""
        names = {m: self.class_name(m) for m in self.home if m.endswith("Spec")}
        for enum in self.enums():
            for value in enum.value:
                names[value.name] = f"{self.enum_name(enum)}.{value.name.removeprefix(prefix(enum))}"
        return names

    def message(self, name: str) -> DescriptorProto:
        """The message of that name."""
        return next(m for m in self.files[self.home[name]].message_type if m.name == name)

    def enums(self) -> Iterator[EnumDescriptorProto]:
        """Every enum, file by file."""
        for stem in sorted(self.files):
            yield from self.files[stem].enum_type

    def class_name(self, message: str) -> str:
        """The Python name of a message: without "Spec", unless that is a message too; spelt as its rule."""
        short = message.removesuffix("Spec")
        name = message if short != message and short in self.home else short
        kind = self.kinds.get(message)
        return kind.__name__ if kind is not None and kind.__name__.lower() == name.lower() else name

    def enum_name(self, enum: EnumDescriptorProto | str) -> str:
        """The Python name of an enum, spelt as the server spells it."""
        name = enum if isinstance(enum, str) else enum.name
        return self.spelling.get(name.lower(), name)

    @cached_property
    def kinds(self) -> dict[str, type]:
        """The server's class of each message that is one choice of a registry."""
        found = {}
        for family in self.home:
            for field in self.message(family).field:
                kind = algorithm(family, field.name) if is_choice(field) else None
                if kind is not None:
                    found[last(field.type_name)] = kind
        return found

    def map_entry(self, message: str, field: FieldDescriptorProto) -> DescriptorProto | None:
        """The message of a map's entries; None for a field that is no map."""
        nested = {n.name: n for n in self.message(message).nested_type if n.options.map_entry}
        return nested.get(last(field.type_name))

    def module_of(self, message: str) -> str:
        """The Python module that a message's class is written to."""
        return next(name for name, (stem, _, _) in MODULES.items() if stem == self.home[message])


@dataclass(frozen=True)
class Attribute:
    """One field of a class to be written."""

    name: str
    type: str
    comment: str
    required: bool = False
    default: str | None = None
    by_convention: bool = False
    positional: bool = False

    def line(self) -> str:
        """Its declaration."""
        if self.required:
            return f"{self.name}: {self.type}"
        if self.default is not None:
            return f"{self.name}: {self.type} = {self.default}"
        if self.by_convention:
            return f"{self.name}: ByConvention[{self.type}] = None"
        return f"{self.name}: {self.type} | None = None"


class Module:
    """One module being written: its classes and what they need imported."""

    def __init__(self, contract: Contract, name: str) -> None:
        self.contract = contract
        self.name = name
        self.stem, self.root, self.title = MODULES[name]
        self.imports: set[tuple[str, str]] = set()
        self.classes: list[str] = []
        self.names: list[str] = []
        self.written: set[str] = set()
        self.write(contract.message(self.root))

    def write(self, message: DescriptorProto) -> None:
        """Writes a message's class, the classes of its oneof, and those it refers to."""
        choices = [f for f in message.field if is_choice(f)]
        own = [f for f in message.field if f not in choices]
        self.written.add(message.name)
        later = self.local_messages(own)
        bases = f"message={self.stem}_pb2.{message.name}"
        if choices:
            self.imports.add(("optserve.specs.base", "Choice"))
            oneof = message.oneof_decl[choices[0].oneof_index].name
            bases = f'Choice, {bases}, oneof="{oneof}"'
        else:
            self.imports.add(("optserve.specs.base", "Spec"))
            bases = f"Spec, {bases}"
        name = self.contract.class_name(message.name)
        kind = self.contract.records.get(message.name.removesuffix("Spec"))
        attributes = [self.attribute(message.name, f, declarations_of(kind).get(f.name)) for f in own]
        self.add_class(
            name, bases, docstring(self.contract.comments[(message.name,)], attributes), attributes
        )
        for choice in choices:
            self.write_choice(message, choice)
        for name in later:
            if name not in self.written:
                self.write(self.contract.message(name))

    def local_messages(self, fields: Fields) -> list[str]:
        """The messages of this file that the fields hold."""
        names = [last(f.type_name) for f in fields if f.type == MESSAGE]
        return [name for name in names if self.contract.home[name] == self.stem]

    def write_choice(self, family: DescriptorProto, choice: FieldDescriptorProto) -> None:
        """Writes the class of one field of a family's oneof."""
        message = self.contract.message(last(choice.type_name))
        shared = sum(f.type_name == choice.type_name for f in family.field) > 1
        base = self.contract.class_name(family.name)
        name = base + camel(choice.name) if shared else self.contract.class_name(message.name)
        comment = self.contract.comments[(family.name, choice.name) if shared else (message.name,)]
        kind = algorithm(family.name, choice.name)
        declarations = declarations_of(kind or self.contract.records.get(name))
        attributes = [
            self.attribute(message.name, field, declarations.get(field.name), family.name)
            for field in message.field
        ]
        attributes.sort(key=lambda a: not a.required)
        text = (
            docstring(comment, attributes) if kind is None else algorithm_docstring(kind, comment, attributes)
        )
        self.add_class(name, f'{base}, field="{choice.name}"', text, attributes)

    def add_class(self, name: str, bases: str, text: list[str], attributes: list[Attribute]) -> None:
        """Adds the text of one dataclass."""
        positional = [a for a in attributes if a.required or a.positional]
        keywords = [a for a in attributes if a not in positional]
        keyword_only = "" if positional or not keywords else ", kw_only=True"
        lines = [f"@dataclass(frozen=True{keyword_only})", f"class {name}({bases}):", *text]
        body = [a.line() for a in positional]
        if positional and keywords:
            self.imports.add(("dataclasses", "KW_ONLY"))
            body.append("_: KW_ONLY")
        body += [a.line() for a in keywords]
        if body:
            lines += ["", *(f"    {line}" for line in body)]
        self.names.append(name)
        self.classes.append("\n".join(lines))

    def attribute(
        self, message: str, field: FieldDescriptorProto, declaration: Declaration | None, family: str = ""
    ) -> Attribute:
        """What is written for one field.

        Args:
            message: that has the field.
            field: the field.
            declaration: the server's, of the same name; None when it has none.
            family: the message that chooses this one; empty when none does.
        """
        entry = self.contract.map_entry(message, field)
        repeated = field.label == REPEATED and entry is None
        if entry is not None:
            self.imports.add(("collections.abc", "Mapping"))
            kind = f"Mapping[{', '.join(map(self.type_of, entry.field))}]"
        else:
            kind = self.type_of(field)
        if repeated:
            self.imports.add(("collections.abc", "Sequence"))
            kind = f"Sequence[{kind}]"
        comment = self.contract.comments[(message, field.name)]
        default = "()" if repeated else FAMILY_DEFAULTS.get((message, field.name))
        by_convention = False
        unstated = (family, field.name) == UNSTATED
        if declaration is not None:
            comment = describe(comment, declaration)
            by_convention = depends(declaration) and not unstated
            if entry is None and not unstated and default is None:
                default = literal(common_default(declaration))
        elif default is not None and "." in default:
            comment += f" Default: {default.rpartition('.')[2]}."
        if by_convention:
            self.imports.add(("optserve.specs.base", "ByConvention"))
        required = re.search(r"\bRequired\.", comment) is not None
        return Attribute(field.name, kind, comment, required, default, by_convention, unstated)

    def type_of(self, field: FieldDescriptorProto) -> str:
        """The Python type of one element of a field; notes its import."""
        if field.type in SCALARS:
            return SCALARS[field.type]
        name = last(field.type_name)
        if field.type == ENUM:
            self.imports.add(("optserve.specs.enums", self.contract.enum_name(name)))
            return self.contract.enum_name(name)
        module = self.contract.module_of(name)
        if module != self.name:
            self.imports.add((f"optserve.specs.{module}", self.contract.class_name(name)))
        return self.contract.class_name(name)

    def text(self) -> str:
        """The whole module."""
        names: dict[str, set[str]] = {"dataclasses": {"dataclass"}, "optserve.v1": {f"{self.stem}_pb2"}}
        for module, name in self.imports:
            names.setdefault(module, set()).add(name)
        lines = [import_line(module, names[module]) for module in sorted(names)]
        standard = [line for line in lines if not line.startswith("from optserve")]
        own = [line for line in lines if line.startswith("from optserve")]
        head = [header(self.title, f"{self.stem}.proto"), "", "from __future__ import annotations", ""]
        return "\n".join([*head, *standard, "", *own, "", "", "\n\n\n".join(self.classes), ""])


def public_text(name: str, classes: list[str]) -> str:
    """The text of the public module of a module of specifications."""
    title = MODULES[name][2] if name in MODULES else ENUMS_TITLE
    names = sorted(classes)
    lines = [f'"""{title}.\n\nWritten by tools/generate_specs.py: the names of `optserve.specs.{name}`.\n"""']
    lines += ["", import_line(f"optserve.specs.{name}", set(classes)), ""]
    return "\n".join([*lines, "__all__ = [", *(f'    "{one}",' for one in names), "]", ""])


def enums_text(contract: Contract) -> str:
    """The text of the module of enums."""
    origin = f"Written by tools/generate_specs.py from {PACKAGE}/*.proto; change it there."
    lines = [f'"""{ENUMS_TITLE}.', "", origin, '"""', ""]
    lines += ["from __future__ import annotations", "", "from enum import IntEnum"]
    for enum in contract.enums():
        lines += ["", "", f"class {contract.enum_name(enum)}(IntEnum):"]
        lines += docstring(contract.comments[(enum.name,)], [])
        for value in enum.value:
            if value.number == 0:
                continue
            lines += ["", f"    {value.name.removeprefix(prefix(enum))} = {value.number}"]
            lines += docstring(contract.comments[(enum.name, value.name)], [])
    lines += ["", "", "_BY_NAME: dict[str, type[IntEnum]] = {"]
    lines += [f'    "{enum.name}": {contract.enum_name(enum)},' for enum in contract.enums()]
    lines += ["}", "", "", "def find_enum(name: str) -> type[IntEnum]:"]
    lines += ['    """The enum that the contract calls ``name``."""', "    return _BY_NAME[name]"]
    return "\n".join([*lines, ""])


def header(title: str, file: str) -> str:
    """A module's docstring."""
    origin = f"Written by tools/generate_specs.py from {PACKAGE}/{file}; change it there."
    return f'"""{title}.\n\n{origin}\nFormulas, ranges and defaults are the server\'s declarations.\n"""'


def docstring(comment: str, attributes: list[Attribute]) -> list[str]:
    """The docstring of a comment, indented by one level."""
    summary, rest = summarize(comment)
    return quote([f"{summary}.", *(["", *wrap(rest, WIDTH - 8)] if rest else [])], attributes)


def algorithm_docstring(kind: type, comment: str, attributes: list[Attribute]) -> list[str]:
    """The docstring of an algorithm: its source, its formula, and what the contract says besides."""
    formulas = formula(kind)
    known = words(" ".join([source(kind), *formulas]))
    rest = [s for s in sentences(comment)[1:] if len(words(s) - known) > 0.4 * len(words(s))]
    lines = [f"{source(kind)}.", "", *formulas]
    if rest:
        lines += ["", *wrap(" ".join(rest), WIDTH - 8)]
    return quote(lines, attributes)


def quote(lines: list[str], attributes: list[Attribute]) -> list[str]:
    """A docstring of those lines, with its attributes."""
    lines = [f'"""{lines[0]}', *lines[1:]]
    if attributes:
        lines += ["", "Attributes:"]
        for attribute in attributes:
            wrapped = wrap(f"{attribute.name}: {attribute.comment}", WIDTH - 16)
            lines += [f"    {wrapped[0]}", *(f"        {line}" for line in wrapped[1:])]
    if len(lines) == 1:
        return [f'    {lines[0]}"""']
    return [f"    {line}" if line else "" for line in [*lines, '"""']]


def describe(comment: str, declaration: Declaration) -> str:
    """A field's comment with its range and its defaults, unless it states them itself."""
    parts = [comment]
    allowed = declaration.range_text()
    if allowed and allowed.lower() not in comment.lower():
        parts.append(f"{allowed[0].upper()}{allowed[1:]}.")
    if not re.search(r"\bunset\b|\bunder the\b", comment):
        parts.append(default_text(declaration))
    return " ".join(part for part in parts if part)


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph."""
    return re.split(r"(?<=[.?!]) (?=[A-Z])", text)


def words(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return set(re.findall(r"[a-z]{2,}", text.lower()))


def summarize(comment: str) -> tuple[str, str]:
    """The first sentence of a comment, or as much of it as a line holds, and the rest."""
    summary, _, rest = comment.partition(". ")
    for mark in (": ", "; "):
        if len(summary) > WIDTH - 8:
            summary, _, more = summary.partition(mark)
            rest = f"{more}. {rest}" if more and rest else more or rest
    return summary.rstrip("."), rest


def wrap(text: str, width: int) -> list[str]:
    """The text in lines."""
    return textwrap.wrap(text, width, break_on_hyphens=False)


def clean(comment: str) -> str:
    """A comment as one paragraph."""
    return " ".join(comment.split())


def last(type_name: str) -> str:
    """The message's own name."""
    return type_name.rpartition(".")[2]


def is_choice(field: FieldDescriptorProto) -> bool:
    """Whether a field belongs to a oneof that the contract declares."""
    return field.HasField("oneof_index") and not field.proto3_optional


def prefix(enum: EnumDescriptorProto) -> str:
    """What the names of an enum's values begin with."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"


def camel(name: str) -> str:
    """``by_value`` as ``ByValue``."""
    return "".join(part.capitalize() for part in name.split("_"))


def import_line(module: str, names: set[str]) -> str:
    """An import; the formatter, which runs next, puts the names in order."""
    ordered = sorted(names)
    line = f"from {module} import {', '.join(ordered)}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in ordered), ")"])


if __name__ == "__main__":
    main()
