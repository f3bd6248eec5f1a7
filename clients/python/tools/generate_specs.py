"""Writes the client's specification classes and enums from the contract.

    python clients/python/tools/generate_specs.py proto clients/python/src/optserve

Every ``*Spec`` message becomes a frozen dataclass with the message's fields and comments,
every enum an ``IntEnum`` with the wire's numbers, so that no hyperparameter is written
down a second time. A field whose comment says "Required." has no default and may be
given by position.
"""

from __future__ import annotations

import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc

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
    "session_spec": ("session", "SessionSpec", "What a session is asked to be"),
}
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


def main() -> None:
    """Writes every module into the folder named on the command line."""
    proto_root, target = Path(sys.argv[1]), Path(sys.argv[2])
    contract = Contract(compile_protos(proto_root))
    texts = {name: module_text(contract, name) for name in MODULES} | {"enums": enums_text(contract)}
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

    def message(self, name: str) -> DescriptorProto:
        """The message of that name."""
        return next(m for m in self.files[self.home[name]].message_type if m.name == name)

    def enums(self) -> Iterator[EnumDescriptorProto]:
        """Every enum, file by file."""
        for stem in sorted(self.files):
            yield from self.files[stem].enum_type

    def class_name(self, message: str) -> str:
        """The Python name of a message: without "Spec", unless that is a message too."""
        short = message.removesuffix("Spec")
        return message if short != message and short in self.home else short

    def map_entry(self, message: str, field: FieldDescriptorProto) -> DescriptorProto | None:
        """The message of a map's entries, where a field is a map."""
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
    required: bool
    repeated: bool

    def line(self) -> str:
        """Its declaration."""
        if self.required:
            return f"{self.name}: {self.type}"
        if self.repeated:
            return f"{self.name}: {self.type} = ()"
        return f"{self.name}: {self.type} | None = None"


class Module:
    """One module being written: its classes and what they need imported."""

    def __init__(self, contract: Contract, name: str) -> None:
        self.contract = contract
        self.name = name
        self.stem, self.root, self.title = MODULES[name]
        self.imports: set[tuple[str, str]] = set()
        self.classes: list[str] = []
        self.written: set[str] = set()
        self.write(contract.message(self.root))

    def write(self, message: DescriptorProto) -> None:
        """Writes a message's class, the classes of its oneof, and those it refers to."""
        choices = [f for f in message.field if f.HasField("oneof_index") and not f.proto3_optional]
        own = [f for f in message.field if f not in choices]
        self.written.add(message.name)
        later = self.local_messages(own)
        bases = f"message={self.stem}_pb2.{message.name}"
        if choices:
            self.imports.add(("optserve.spec", "Choice"))
            oneof = message.oneof_decl[choices[0].oneof_index].name
            bases = f'Choice, {bases}, oneof="{oneof}"'
        else:
            self.imports.add(("optserve.spec", "Spec"))
            bases = f"Spec, {bases}"
        self.add_class(self.contract.class_name(message.name), bases, message, own)
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
        comment = self.contract.comments[(family.name, choice.name)] if shared else ""
        self.add_class(name, f'{base}, field="{choice.name}"', message, list(message.field), comment)

    def add_class(
        self, name: str, bases: str, message: DescriptorProto, fields: Fields, comment: str = ""
    ) -> None:
        """Adds the text of one dataclass."""
        attributes = [self.attribute(message.name, field) for field in fields]
        required = [a for a in attributes if a.required]
        optional = [a for a in attributes if not a.required]
        attributes = required + optional
        keyword_only = "" if required or not optional else ", kw_only=True"
        lines = [f"@dataclass(frozen=True{keyword_only})", f"class {name}({bases}):"]
        lines += docstring(comment or self.contract.comments[(message.name,)], attributes)
        body = [a.line() for a in required]
        if required and optional:
            self.imports.add(("dataclasses", "KW_ONLY"))
            body.append("_: KW_ONLY")
        body += [a.line() for a in optional]
        if body:
            lines += ["", *(f"    {line}" for line in body)]
        self.classes.append("\n".join(lines))

    def attribute(self, message: str, field: FieldDescriptorProto) -> Attribute:
        """What is written for one field."""
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
        required = re.search(r"\bRequired\.", comment) is not None
        return Attribute(field.name, kind, comment, required, repeated)

    def type_of(self, field: FieldDescriptorProto) -> str:
        """The Python type of one element of a field; notes its import."""
        if field.type in SCALARS:
            return SCALARS[field.type]
        name = last(field.type_name)
        if field.type == ENUM:
            self.imports.add(("optserve.enums", name))
            return name
        module = self.contract.module_of(name)
        if module != self.name:
            self.imports.add((f"optserve.{module}", self.contract.class_name(name)))
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


def module_text(contract: Contract, name: str) -> str:
    """The text of one module of specifications."""
    return Module(contract, name).text()


def enums_text(contract: Contract) -> str:
    """The text of the module of enums."""
    lines = [header("The contract's enums, without what stands for an unset one", "*.proto"), ""]
    lines += ["from __future__ import annotations", "", "from enum import IntEnum"]
    for enum in contract.enums():
        lines += ["", "", f"class {enum.name}(IntEnum):"]
        lines += docstring(contract.comments[(enum.name,)], [])
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
        for value in enum.value:
            if value.number == 0:
                continue
            lines += ["", f"    {value.name.removeprefix(prefix)} = {value.number}"]
            lines += docstring(contract.comments[(enum.name, value.name)], [])
    return "\n".join([*lines, ""])


def header(title: str, source: str) -> str:
    """A module's docstring."""
    return f'"""{title}.\n\nWritten by tools/generate_specs.py from {PACKAGE}/{source}; change it there.\n"""'


def docstring(comment: str, attributes: list[Attribute]) -> list[str]:
    """A docstring, indented by one level."""
    summary, rest = summarized(comment)
    lines = [f'"""{summary}.']
    if rest:
        lines += ["", *wrap(rest, WIDTH - 8)]
    if attributes:
        lines += ["", "Attributes:"]
        for attribute in attributes:
            wrapped = wrap(f"{attribute.name}: {attribute.comment}", WIDTH - 16)
            lines += [f"    {wrapped[0]}", *(f"        {line}" for line in wrapped[1:])]
    if len(lines) == 1:
        return [f'    {lines[0]}"""']
    return [f"    {line}" if line else "" for line in [*lines, '"""']]


def summarized(comment: str) -> tuple[str, str]:
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


def camel(name: str) -> str:
    """``by_value`` as ``ByValue``."""
    return "".join(part.capitalize() for part in name.split("_"))


def import_line(module: str, names: set[str]) -> str:
    """An import as isort and the formatter write it: constants, classes, the rest."""
    ordered = sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    line = f"from {module} import {', '.join(ordered)}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in ordered), ")"])


if __name__ == "__main__":
    main()
