"""Hostile snapshots: files with valid checksums, and a structure that no server has written."""

from __future__ import annotations

import functools
import json
import struct
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from chaos.fuzz.bytes import alter
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.durability.snapshot_codec import encode_snapshot
from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.momentum import Momentum
from optserve_server.sessions.store import ParameterInit, Store
from optserve_server.spec.coordination import CoordinationRounds
from optserve_server.spec.data_plan import DataPlanSpec
from optserve_server.spec.early_stopping import EarlyStoppingSpec
from optserve_server.spec.plateau import ReduceOnPlateauSpec
from optserve_server.spec.session_spec import (
    GradientSpec,
    ParameterGroup,
    SessionSpec,
    WeightAverageSpec,
)
from optserve_server.state.staging import NamedArray
from optserve_server.state.step_result import StepOptions
from optserve_server.storage import snapshot
from optserve_server.wire.specifications.spec_text import SPEC_TEXT

LENGTH = struct.Struct("<Q")
"""Length of a snapshot's header, with which it begins."""

_JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, 10**400, 0.5, float("nan"), float("inf"), 1e308,
    "", "x", "w", "\x00", "\ud800", "9" * 400, "1970-01-01T00:00:00", "9999-12-31T23:59:59-23:59",
    [], [[]], [[[]]], ["w"], [1, 2, 3], {}, {"": {}}, {"w": 1},
)  # fmt: skip
"""What a value is replaced by."""


@functools.cache
def templates() -> tuple[bytes, ...]:
    """Valid snapshots: of a plain session, and of those with everything that a snapshot can hold."""
    values: dict[str, npt.NDArray[Any]] = {
        "w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "b": np.ones(3, np.float32),
        "d": np.linspace(0, 2, 5),
        "empty": np.zeros((0, 2), np.float32),
    }
    everything = SessionSpec(
        optimizer=Chosen(Adam()),
        gradient=GradientSpec(accumulation_steps=2, l2=0.1),
        weight_average=WeightAverageSpec(decay=0.9),
        groups=(
            ParameterGroup(
                name="slow", tensors=("b", "d"), learning_rate_factor=0.1, optimizer=Chosen(Momentum())
            ),
        ),
        reduce_on_plateau=ReduceOnPlateauSpec(monitor="loss", patience=1),
        early_stopping=EarlyStoppingSpec(monitor="loss", patience=100, restore_best=True),
    )
    rounds = SessionSpec(
        optimizer=Chosen(Adam()),
        coordination=CoordinationRounds(buffer_size=2),
        data_plan=DataPlanSpec(example_count=100, shard_size=10),
    )
    made = []
    for spec in (SessionSpec(optimizer=Chosen(Adam())), everything, rounds):
        inits = [ParameterInit(name, a.dtype, a.shape, a) for name, a in values.items()]
        session = Store(NumpyBackend()).create("template", spec, inits)
        if spec is rounds:
            session.coordinator.membership.join("left", 60.0)
            session.coordinator.require_data_plan().lease_shards("left", [0, 1])
        else:
            for sequence in (1, 2, 3):
                staging = session.stage_arrays([NamedArray(name, a) for name, a in values.items()])
                session.take_step(
                    staging, StepOptions(worker="left", sequence=sequence, per_tensor_norms=True)
                )
        encoded = encode_snapshot(session, SPEC_TEXT, requests=[])
        pieces: list[bytes] = []
        snapshot.write_snapshot(lambda piece: pieces.append(bytes(piece)), encoded.tensors, encoded.metadata)  # noqa: B023
        made.append(b"".join(pieces))
    return tuple(made)


def split_template(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a snapshot, and the tensors' bytes without the checksums."""
    (length,) = LENGTH.unpack_from(data)
    start = LENGTH.size + length
    header = json.loads(data[LENGTH.size : start])
    return header, data[start : start + header["checksums"]["data_offsets"][0]]


def mutate_snapshot(random: Random) -> bytes:
    """A snapshot that was changed in one to three places; its checksums are valid."""
    header, tensors = split_template(random.choice(templates()))
    metadata = header["__metadata__"]
    metadata["optserve"] = facts = json.loads(metadata["optserve"])
    metadata["spec"] = spec = json.loads(metadata["spec"])
    for _ in range(random.randrange(1, 4)):
        _mutate_value(random, random.choice([facts, facts, facts, spec, metadata, header]))
    text = random.random()
    if text < 0.05:
        metadata["optserve"] = "[" * random.choice([10, 100_000])
    for name in ("optserve", "spec"):
        if isinstance(metadata.get(name), dict | list):
            metadata[name] = json.dumps(metadata[name])
    if 0.05 <= text < 0.15 and isinstance(metadata.get("optserve"), str):
        metadata["optserve"] = alter(random, metadata["optserve"].encode()).decode(errors="replace")
    return _seal(header, tensors)


def _mutate_value(random: Random, tree: Any) -> None:
    """Replaces, removes, adds or swaps one value somewhere in a tree of JSON."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = random.choice(keys)
        inner = tree[key]
        if not isinstance(inner, dict | list) or not inner or random.random() < 0.3:
            break
        tree = inner
    match random.randrange(5):
        case 0:
            del tree[key]
        case 1:
            other = random.choice(keys)
            tree[key], tree[other] = tree[other], tree[key]
        case 2 if isinstance(tree, list):
            tree.insert(key, random.choice([inner, random.choice(_JUNK)]))
        case 2:
            tree[f"{key}x"] = inner
        case _:
            is_number = isinstance(inner, int | float)
            near = [inner + 1, inner - 1, -inner, inner * 2] if is_number else []
            tree[key] = random.choice([*_JUNK, *near])


def _seal(header: dict[str, Any], tensors: bytes) -> bytes:
    """A file with that header, whose checksums are valid if the header still has a place for them."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = LENGTH.pack(len(text)) + text
    digests = [xxhash.xxh3_128_digest(head)]
    try:
        spans = sorted(
            e["data_offsets"] for name, e in header.items() if name not in ("__metadata__", "checksums")
        )
        digests += [xxhash.xxh3_128_digest(tensors[begin:end]) for begin, end in spans]
    except (KeyError, TypeError, ValueError):
        pass
    return head + tensors + b"".join(digests)
