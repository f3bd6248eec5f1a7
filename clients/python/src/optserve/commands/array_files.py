"""Arrays in files (.npz, .safetensors, .npy), and arrays written as text."""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from optserve._codec.dtypes import Array
from optserve.extras import import_extra
from optserve.file_access import open_to_write
from optserve.plotting.spec_parser import LONGEST_VALUE, WrongItem

SUFFIXES = (".npz", ".safetensors")
"""How names of files with arrays by name end."""


def read_arrays(path: Path) -> dict[str, Array]:
    """Arrays by name.

    Raises:
        WrongItem: the file is damaged.
        OSError: it cannot be read.
        RuntimeError: safetensors is missing.
    """
    if path.suffix == ".safetensors":
        safetensors = import_extra("safetensors.numpy", "cli")
        try:
            return dict(sorted(safetensors.load(path.read_bytes()).items()))  # their order is random
        except import_extra("safetensors", "cli").SafetensorError:
            raise WrongItem(f"{path} is not a safetensors file") from None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise WrongItem(f"{path} is not an npz file of numbers") from None


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Writes arrays by name; the file is replaced when it is complete.

    Raises:
        WrongItem: the file cannot hold an array's element type.
        OSError: it cannot be written.
        RuntimeError: safetensors is missing.
    """
    if path.suffix == ".safetensors":
        data = import_extra("safetensors.numpy", "cli").save(dict(arrays))
        with open_to_write(path) as file:
            file.write(data)
        return
    if any(array.dtype.kind == "V" for array in arrays.values()):
        raise WrongItem("an npz file has no bfloat16; write .safetensors")
    # numpy.savez takes names as arguments, so that no array could be called "file".
    with open_to_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def read_array(text: str, kind: str) -> Array:
    """Reads an array: the path of an .npy file, or numbers as in ``[[1, 2], [3, 4]]``.

    Args:
        text: path or numbers.
        kind: "f" for numbers of any kind, integers as float64; "i" for integers.

    Raises:
        WrongItem: it is neither.
        OSError: the file cannot be read.
    """
    try:
        literal = None if text.endswith(".npy") or len(text) > LONGEST_VALUE else ast.literal_eval(text)
        array: Array = np.load(text, allow_pickle=False) if text.endswith(".npy") else np.array(literal)
    except (ValueError, TypeError, SyntaxError, EOFError, RecursionError, MemoryError):
        array = np.array(None)
    if kind == "f" and array.dtype.kind == "i":
        array = array.astype(np.float64)
    if array.dtype.kind != kind:
        raise WrongItem(f"{text[:100]} is neither an .npy file of numbers nor numbers as in [[1, 2], [3, 4]]")
    return array
