"""The pages about the command line: their commands run, and no command or option is missing."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np

from optserve.commands.main import make_parser
from tools.docs.command_line import command_line_page, list_commands

HOW_TO = Path(__file__).parents[3] / "docs" / "how_to" / "command_line.md"


def list_documented() -> list[list[str]]:
    """The commands of the page, their continued lines joined."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", HOW_TO.read_text(), re.M | re.S)
    lines = "".join(text for language, text in blocks if not language).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("optserve ")]


def test_the_documented_commands_run(run, secure, tmp_path, monkeypatch):
    monkeypatch.delenv("OPTSERVE_SERVER")
    monkeypatch.delenv("OPTSERVE_CA")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    Path("ca.pem").write_bytes(secure.ca.read_bytes())
    np.savez("gradients.npz", w=np.ones((64, 10), np.float32), b=np.ones(10, np.float32))
    commands = list_documented()
    assert len(commands) > 20
    for words in commands:
        ended = run(*(word.replace("trainer.example.org:50051", secure.address) for word in words))
        assert (ended.status, ended.err) == (0, ""), words


def test_the_reference_has_every_command_and_option():
    page = command_line_page()
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    for words, parser in list_commands(make_parser()).items():
        section = sections[words]
        described = section + sections["Options of the server"]
        flags = {flag for action in parser._actions for flag in action.option_strings}
        assert {flag for flag in flags if flag not in described} <= {"-h", "--help", "--json"}
        assert all(f"`{key}`" in section for key in parser.json_keys)
