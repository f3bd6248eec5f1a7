"""The clients with threads and with coroutines have the same names, arguments and results."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import optserve
from optserve import aio

PAIRS = [
    (optserve.Client, aio.AsyncClient),
    (optserve.SessionHandle, aio.AsyncSessionHandle),
    (optserve.StepStream, aio.AsyncStepStream),
    (optserve.Member, aio.AsyncMember),
    (optserve.Snapshots, aio.AsyncSnapshots),
    (optserve.PendingStep, aio.AsyncPendingStep),
]
ONLY_THREADS = {
    ("StepStream", "gradients"),
    ("StepStream", "shares_memory"),
    ("Member", "dataset"),  # PyTorch's loaders iterate without awaiting
}
ARGUMENTS_OF_THREADS = {
    "stream": {"shared_memory", "in_place"},
    "connect": {"shared_memory", "data_connections"},
}


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS, ids=lambda cls: cls.__name__)
def test_the_names_are_the_same(sync: type, asynchronous: type) -> None:
    left_out = {name for owner, name in ONLY_THREADS if owner == sync.__name__}
    assert public(asynchronous) == public(sync) - left_out
    assert left_out <= public(sync)


def parameters(function: Any) -> dict[str, tuple[object, object]]:
    return {name: (p.kind, p.default) for name, p in inspect.signature(function).parameters.items()}


METHODS = [
    (sync, asynchronous, name)
    for sync, asynchronous in PAIRS
    for name in sorted(public(asynchronous))
    if callable(getattr(sync, name))
]


@pytest.mark.parametrize(
    ("sync", "asynchronous", "name"), METHODS, ids=[f"{sync.__name__}.{name}" for sync, _, name in METHODS]
)
def test_the_arguments_are_the_same(sync: type, asynchronous: type, name: str) -> None:
    expected = parameters(getattr(sync, name))
    for argument in ARGUMENTS_OF_THREADS.get(name, ()):
        del expected[argument]
    assert parameters(getattr(asynchronous, name)) == expected
    assert getattr(asynchronous, name).__doc__


def test_connect_takes_the_same_arguments() -> None:
    expected = parameters(optserve.connect)
    for argument in ARGUMENTS_OF_THREADS["connect"]:
        del expected[argument]
    assert parameters(aio.connect) == expected


def test_there_are_as_many_pairs_as_classes() -> None:
    assert {asynchronous.__name__ for _, asynchronous in PAIRS} | {"connect"} == set(aio.__all__)
    assert len(METHODS) >= 50
