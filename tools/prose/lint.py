"""Linter of a file: words of the vocabulary in its prose, participles in its functions' names."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

_SPACE = r"\s+"
"""What a space of a pattern matches: phrases may be broken over lines."""


class Word(NamedTuple):
    """A pattern to find, and what to write instead."""

    pattern: re.Pattern[str]
    instead: str


@dataclass(frozen=True)
class Participles:
    """Past participles, which are no names of functions: a function is named by what it does.

    Attributes:
        irregular: participles that do not end in -ed.
        others: words in -ed that are no participles.
        allowed: beginnings of names that are terms of the field.
    """

    irregular: frozenset[str]
    others: frozenset[str]
    allowed: tuple[str, ...]

    def begin(self, name: str) -> bool:
        """Whether the first word of a function's name is a participle."""
        name = name.lstrip("_")
        word = name.partition("_")[0]
        if name.startswith(self.allowed):
            return False
        return word in self.irregular or (word.endswith("ed") and word not in self.others)


@dataclass(frozen=True)
class Vocabulary:
    """Words to avoid in prose and in functions' names.

    Attributes:
        words: what to find in prose.
        participles: what to find in names.
        gated: globs of paths, relative to the repository, that `gates` accepts.
    """

    words: tuple[Word, ...]
    participles: Participles
    gated: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads a vocabulary from TOML.

        Raises:
            re.error: a pattern is not a regular expression.
        """
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        words = tuple(
            Word(
                re.compile(rf"(?<![\w-])(?:{pattern.replace(' ', _SPACE)})(?![\w-])", re.IGNORECASE), instead
            )
            for pattern, instead in content["words"].items()
        )
        names = content["functions"]
        participles = Participles(
            frozenset(names["irregular"]), frozenset(names["others"]), tuple(names["allowed"])
        )
        return cls(words, participles, tuple(content["gated"]))

    def gates(self, path: PurePath) -> bool:
        """Whether a path must have no findings."""
        return any(_matches(path, glob) for glob in self.gated)


@dataclass(frozen=True)
class Finding:
    """A word in a file, at a line counted from 1."""

    path: Path
    line: int
    text: str
    instead: str

    def line_of(self, root: Path) -> str:
        """The finding as compilers print one."""
        path = self.path.relative_to(root) if self.path.is_relative_to(root) else self.path
        return f"{path}:{self.line}: '{self.text}': {self.instead}"


def findings_in(path: Path, vocabulary: Vocabulary) -> list[Finding]:
    """The findings of a file, in order; none for a file that has no prose.

    Raises:
        SyntaxError: a Python file cannot be parsed.
    """
    extract = {".md": markdown_prose, ".py": python_prose, ".proto": proto_prose}.get(path.suffix)
    if extract is None:
        return []
    text = path.read_text(encoding="utf-8")
    prose = extract(text)
    found = list(_participles_in(path, text, vocabulary.participles)) if path.suffix == ".py" else []
    for word in vocabulary.words:
        for match in word.pattern.finditer(prose):
            line = prose.count("\n", 0, match.start()) + 1
            found.append(Finding(path, line, re.sub(r"\s+", " ", match[0]), word.instead))
    return sorted(found, key=lambda finding: finding.line)


def _participles_in(path: Path, text: str, participles: Participles) -> Iterator[Finding]:
    """Functions and methods whose names begin with a participle; properties and fixtures may."""
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and participles.begin(node.name)
            and not any(_is_noun(decorator) for decorator in node.decorator_list)
        ):
            yield Finding(path, node.lineno, node.name, "a verb that says what the function does")


def _is_noun(decorator: ast.expr) -> bool:
    """Whether a decorator makes a function a value, which is named by a noun or a state."""
    text = ast.unparse(decorator).partition("(")[0]
    return text.rpartition(".")[2] in ("property", "cached_property", "setter", "fixture")


def markdown_prose(text: str) -> str:
    """Markdown without code, addresses and comments; lines stay where they are."""
    for pattern in (r"^```.*?^```", r"<!--.*?-->", r"``.+?``", r"`[^`\n]*(?:\n[^`\n]+)?`", r"\]\([^)]*\)"):
        text = re.sub(pattern, _blank, text, flags=re.S | re.M)
    return text


def python_prose(text: str) -> str:
    """Comments and docstrings, an attribute's included, on the lines where they are."""
    lines = [""] * (text.count("\n") + 1)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = token.string.lstrip("#")
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            segment = ast.get_source_segment(text, node.value) or ""
            for number, line in enumerate(segment.splitlines()):
                lines[node.lineno - 1 + number] = line
    return markdown_prose("\n".join(lines))


def proto_prose(text: str) -> str:
    """Comments of a proto file, on the lines where they are."""
    return markdown_prose("\n".join(line.partition("//")[2] for line in text.splitlines()))


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n") or " "


def _matches(path: PurePath, glob: str) -> bool:
    """Whether a glob describes a path; ``**/`` stands for any folders, none included."""
    pattern = re.escape(glob).replace(r"\*\*/", "(?:.+/)?").replace(r"\*", "[^/]*")
    return re.fullmatch(pattern, path.as_posix()) is not None
