"""The contract as pages: services, messages, enums and reasons with their comments."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

PACKAGE = ".optserve.v1."
# Field numbers of descriptor.proto, of which the paths of comments consist.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM = 2, 3, 4
ELEMENT = 2  # an enum's values, a service's methods

NUMBERS = {value: name.removeprefix("TYPE_").lower() for name, value in FieldDescriptorProto.Type.items()}


class Commented:
    """A file of the contract with the comment of each of its elements, by path."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self.file = file
        self._comments = {
            tuple(location.path): location.leading_comments or location.trailing_comments
            for location in file.source_code_info.location
        }

    def comment(self, *path: int) -> str:
        """The comment of an element, as lines without margins; empty for none."""
        return "\n".join(line.strip() for line in self._comments.get(path, "").splitlines()).strip()


def load_contract(folder: Path) -> list[Commented]:
    """Compiles optserve.v1 with its comments.

    Args:
        folder: proto/.

    Raises:
        CalledProcessError: protoc rejects a file.
    """
    files = sorted(str(path.relative_to(folder)) for path in folder.glob("optserve/v1/*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "image"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={folder}"]
        command += ["--include_source_info", f"--descriptor_set_out={output}", *files]
        subprocess.run(command, check=True)
        return [Commented(file) for file in FileDescriptorSet.FromString(output.read_bytes()).file]


def contract_page(contract: Sequence[Commented]) -> str:
    """Every service, message and enum."""
    lines = [
        "# Contract",
        "",
        "Package `optserve.v1`, generated from `proto/`. See also [errors](errors.md) and the",
        "[levels of a client](../../proto/README.md).",
        "",
    ]
    for file in sorted(contract, key=lambda f: not f.file.service):
        if file.file.name.endswith("error_reason.proto"):
            continue
        lines += [f"## {Path(file.file.name).name}", ""]
        for index, service in enumerate(file.file.service):
            lines += _service(file, index, service)
        for index, message in enumerate(file.file.message_type):
            lines += _message(file, (FILE_MESSAGE, index), message, message.name)
        for index, enum in enumerate(file.file.enum_type):
            lines += _enum(file, (FILE_ENUM, index), enum, enum.name)
    return "\n".join(lines) + "\n"


def errors_page(contract: Sequence[Commented]) -> str:
    """Every reason with its status and meaning."""
    lines = [
        "# Errors",
        "",
        "A failed call has a gRPC status. Its details contain `google.rpc.ErrorInfo` with one of these",
        "reasons, in the domain `optserve.v1`, and for a wrong field `google.rpc.BadRequest`. An error",
        "with a reason means that nothing was applied. `RetryInfo` says when to try again.",
        "",
        "In Python, `error.reason`, `error.field` and `error.metadata` have these, and the class is named",
        "for the status: `optserve.errors.InvalidArgument` and so on.",
        "",
        "| reason | status | meaning |",
        "|---|---|---|",
    ]
    for file in contract:
        for index, enum in enumerate(file.file.enum_type):
            if enum.name == "ErrorReason":
                for value_index, value in enumerate(enum.value[1:], start=1):
                    comment = file.comment(FILE_ENUM, index, ELEMENT, value_index)
                    status, _, meaning = comment.partition(". ")
                    cells = value.name.removeprefix("ERROR_REASON_"), status, _cell(meaning)
                    lines.append(f"| `{cells[0]}` | {cells[1]} | {cells[2]} |")
    return "\n".join(lines) + "\n"


def _service(file: Commented, index: int, service: ServiceDescriptorProto) -> Iterator[str]:
    yield from (f"### {service.name}", "", _text(file.comment(FILE_SERVICE, index)), "")
    for number, method in enumerate(service.method):
        request = ("stream " if method.client_streaming else "") + _short(method.input_type)
        response = ("stream " if method.server_streaming else "") + _short(method.output_type)
        yield from (f"#### {service.name}.{method.name}", "", f"`{request}` → `{response}`", "")
        yield from (_text(file.comment(FILE_SERVICE, index, ELEMENT, number)), "")


def _message(file: Commented, path: tuple[int, ...], message: DescriptorProto, name: str) -> Iterator[str]:
    yield from (f"### {name}", "", _text(file.comment(*path)), "")
    if message.field:
        yield from ("| field | type | |", "|---|---|---|")
        for index, field in enumerate(message.field):
            comment = _cell(file.comment(*path, MESSAGE_FIELD, index))
            yield f"| `{field.name}` = {field.number} | {_type(message, field)} | {comment} |"
        yield ""
    for index, enum in enumerate(message.enum_type):
        yield from _enum(file, (*path, MESSAGE_ENUM, index), enum, f"{name}.{enum.name}")
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message(file, (*path, MESSAGE_NESTED, index), nested, f"{name}.{nested.name}")


def _enum(file: Commented, path: tuple[int, ...], enum: EnumDescriptorProto, name: str) -> Iterator[str]:
    yield from (f"### {name}", "", _text(file.comment(*path)), "", "| value | |", "|---|---|")
    for index, value in enumerate(enum.value):
        yield f"| `{value.name}` = {value.number} | {_cell(file.comment(*path, ELEMENT, index))} |"
    yield ""


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    """A field's type with its label and its oneof."""
    name = _short(field.type_name) if field.type_name else NUMBERS[field.type]
    for nested in message.nested_type:
        if nested.options.map_entry and field.type_name.endswith(f".{message.name}.{nested.name}"):
            key, value = nested.field
            return f"map of {_type(nested, key)} to {_type(nested, value)}"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    if field.proto3_optional:
        return f"optional {name}"
    if field.HasField("oneof_index"):
        return f"{name}, of {message.oneof_decl[field.oneof_index].name}"
    return name


def _short(name: str) -> str:
    return name.removeprefix(PACKAGE).lstrip(".")


def _text(comment: str) -> str:
    """A comment as Markdown, in which angle brackets and braces mean themselves."""
    return re.sub(r"([<>*_\[\]])", r"\\\1", comment)


def _cell(comment: str) -> str:
    return _text(comment).replace("\n", " ").replace("|", "\\|")
