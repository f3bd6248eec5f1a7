"""Codec of snapshots: a session as tensors and metadata.

Tensors are named for what they are: ``parameter/w``, ``slot/m/w``, ``average/w``,
``accumulated/w``, ``best/w`` and ``round/w`` belong to the tensor ``w``; ``history/steps`` and
``history/metrics/0`` are points of the history, as bytes. Everything else is facts, which JSON can
say: floats are restored exactly, for it writes the shortest text that is read as them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.kernel import Array
from optserve_server.coordination.contribution import make_aggregate_staging
from optserve_server.errors import DomainError
from optserve_server.programs.step_counters import StepCounter
from optserve_server.programs.step_programs import ACCUMULATED, AVERAGE, PARAMETER, PREPARED
from optserve_server.programs.step_scalars import SessionScalars
from optserve_server.resources.budget import UNBOUNDED, Budget
from optserve_server.sessions.session import Session
from optserve_server.spec.early_stopping import EarlyStoppingState
from optserve_server.spec.plateau import ReduceOnPlateauState
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.state.history import History
from optserve_server.state.layout import Layout, TensorEntry
from optserve_server.state.metric_monitors import MetricMonitors
from optserve_server.state.partition import Partition
from optserve_server.state.step_deduplication import StepDeduplication
from optserve_server.storage import json_text
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.snapshot import Contents, TensorSource

FORMAT = 2
"""Number of the way in which facts are written."""

OLDEST_FORMAT = 1
"""First format that was released; it has no history."""

FACTS = "optserve"
"""Name of the metadata that holds the facts."""

_SPEC = "spec"
_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}


@dataclass(frozen=True)
class EncodedSnapshot:
    """Content of a session's snapshot: tensors, read lazily, and metadata."""

    tensors: list[TensorSource]
    metadata: dict[str, str]


def encode_snapshot(session: Session, codec: SpecCodec, **more: Any) -> EncodedSnapshot:
    """A session's state. It must not change until the tensors were read.

    Args:
        session: the session.
        codec: writes its specification.
        more: further facts.
    """
    history, points = session.history.encode()
    facts = {**_encode_metadata(session), "history": history, **more}
    tensors = [
        _make_tensor_source(session.arenas.backend, name, entry, array)
        for name, entry, array in _session_arrays(session)
    ]
    tensors += [
        TensorSource(name, array.dtype, array.shape, partial(np.asarray, array))
        for name, array in zip(_history_names(history), points, strict=True)
    ]
    metadata = {FACTS: json_text.dumps(facts), _SPEC: codec.encode(session.spec)}
    return EncodedSnapshot(tensors, metadata)


def decode_metadata(contents: Contents) -> dict[str, Any]:
    """The facts of a snapshot.

    Raises:
        DamagedError: there are none, or they are written in another way.
    """
    try:
        facts: dict[str, Any] = json_text.loads(contents.metadata[FACTS])
        if OLDEST_FORMAT <= facts["format"] <= FORMAT:
            return facts
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedError("it is no snapshot of a session") from error
    raise DamagedError(f"it is a snapshot of format {facts['format']!r}, not {OLDEST_FORMAT} to {FORMAT}")


def decode_spec(contents: Contents, codec: SpecCodec) -> SessionSpec:
    """The specification of a snapshot.

    Raises:
        DamagedError: it cannot be read.
    """
    try:
        return codec.decode(contents.metadata[_SPEC])
    except (KeyError, TypeError, ValueError, DomainError) as error:
        raise DamagedError("its specification cannot be read") from error


def decode_layout(contents: Contents, spec: SessionSpec) -> Layout:
    """The layout of a snapshot's session.

    Raises:
        DamagedError: it cannot be read.
    """
    try:
        named = decode_metadata(contents)["layout"]
        return Layout([(str(n), _DTYPES[d], tuple(map(int, shape))) for n, d, shape in named], spec.groups)
    except (KeyError, TypeError, ValueError, DomainError) as error:
        raise DamagedError("its layout cannot be read") from error


def decode_snapshot(
    contents: Contents, codec: SpecCodec, session_id: str, backend: Backend, budget: Budget = UNBOUNDED
) -> Session:
    """The session that a snapshot was made of.

    Raises:
        DamagedError: the snapshot does not fit together.
        DomainError: it exceeds the budget.
    """
    facts, spec = decode_metadata(contents), decode_spec(contents, codec)
    layout = decode_layout(contents, spec)
    try:
        pending = [str(name) for name in facts["pending"] if name in layout]
        session = Session(
            session_id, spec, layout, backend, _check_count(facts["seed"], 1 << 64), pending, budget
        )
        _restore_metadata(session, facts)
        tensors = dict(contents.tensors)
        if "history" in facts:
            points = [tensors.pop(name) for name in _history_names(facts["history"])]
            session.history = History.decode(facts["history"], points, budget)
        _restore_arrays(session, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DamagedError("its facts do not fit together") from error
    return session


def _encode_metadata(session: Session) -> dict[str, Any]:
    monitors = session.monitors
    return {
        "format": FORMAT,
        "step": session.step,
        "accumulated": session.accumulated,
        "skipped": session.skipped,
        "seed": session.seed,
        "created": session.created.isoformat(),
        "layout": [(e.name, e.dtype.name, e.shape) for e in session.layout.entries],
        "pending": session.pending_tensors,
        "clocks": [
            (
                counter.group,
                counter.count,
                counter.scalar_state,
                None if counter.tensors is None else sorted(counter.tensors),
            )
            for counter in session.scalars.counters
        ],
        "plateau": None if monitors.plateau is None else dataclasses.asdict(monitors.plateau),
        "stopping": None if monitors.stopping is None else dataclasses.asdict(monitors.stopping),
        "workers": session.step_deduplication.to_json(),
        "coordination": session.coordinator.to_json(),
    }


def _restore_metadata(session: Session, facts: Mapping[str, Any]) -> None:
    plateau, stopping = facts["plateau"], facts["stopping"]
    monitors = MetricMonitors(
        None if plateau is None else ReduceOnPlateauState(**plateau),
        None if stopping is None else EarlyStoppingState(**stopping),
        session.monitors.best,
    )
    step, needed = _check_count(facts["step"]), session.spec.gradient.accumulation_steps
    counters = _decode_counters(session, facts["clocks"], step)
    scalars = SessionScalars(session.spec, session.layout.tensors_by_group, counters)
    counts = step, _check_count(facts["accumulated"], needed), _check_count(facts["skipped"])
    session.restore(session.spec, scalars, monitors, counts)
    session.created = datetime.fromisoformat(facts["created"]).astimezone(UTC)
    session.step_deduplication = StepDeduplication.from_json(facts["workers"])
    session.coordinator.restore(facts["coordination"], lambda: make_aggregate_staging(session))


def _history_names(facts: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that a history's points are."""
    return ["history/steps", *(f"history/metrics/{i}" for i in range(len(facts["metrics"])))]


def _check_count(value: Any, limit: int = 1 << 63) -> int:
    """A number that a message can carry; files may come from anybody."""
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(value)
    return value


def _decode_counters(session: Session, facts: Sequence[Any], step: int) -> list[StepCounter]:
    """The counters of a snapshot.

    Raises:
        DamagedError: they are not those of its specification.
    """
    members, known = (
        session.layout.tensors_by_group,
        {counter.group: counter for counter in session.scalars.counters},
    )
    counters = [
        StepCounter(
            str(group),
            _check_count(count, step + 1),
            {str(name): float(value) for name, value in carried.items()},
            None if tensors is None else frozenset(map(str, tensors)),
        )
        for group, count, carried, tensors in facts
    ]
    for counter in counters:
        if (
            counter.group not in known
            or counter.scalar_state.keys() != known[counter.group].scalar_state.keys()
        ):
            raise DamagedError("its numbers are not those of its specification")
    for group in known:
        mine = members.get(group, [])
        of_group = [counter.tensors for counter in counters if counter.group == group]
        shown = [mine if tensors is None else list(tensors) for tensors in of_group]
        if sorted(name for names in shown for name in names) != sorted(mine):
            raise DamagedError("its step counts are not those of its tensors")
    return counters


def _restore_arrays(session: Session, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    backend = session.arenas.backend
    places = list(_session_arrays(session))
    if {name for name, _, _ in places} != tensors.keys():
        raise DamagedError("its tensors are not those of its specification")
    for name, entry, array in places:
        found = tensors[name]
        if found.dtype != entry.dtype or found.size != array.size:
            raise DamagedError(f"tensor {name!r} has another type or shape")
        flat = found.reshape(-1)
        # An open round is on the host.
        array.reshape(-1)[:] = flat if isinstance(array, np.ndarray) else backend.from_host(flat)


def _session_arrays(session: Session) -> Iterator[tuple[str, TensorEntry, Array]]:
    """Every array that is worth keeping, cut into tensors: views, in their own shapes."""
    arenas, monitors = session.arenas, session.monitors
    if session.coordinator.round is not None:
        total = session.coordinator.round.total
        for tensor in total.tensors:
            yield f"round/{tensor.entry.name}", tensor.entry, total.array(tensor).reshape(tensor.entry.shape)
    for partition in arenas.partitions.values():
        for entry in partition.tensors:
            yield from _partition_arrays(partition, entry)
            if monitors.best is not None:
                best = monitors.best[entry.dtype][entry.start : entry.stop]
                yield f"best/{entry.name}", entry, best.reshape(entry.shape)


def _partition_arrays(partition: Partition, entry: TensorEntry) -> Iterator[tuple[str, TensorEntry, Array]]:
    place = slice(entry.start - partition.start, entry.stop - partition.start)
    for name, array in partition.arrays.items():
        if name != PREPARED:  # nothing that one step leaves to the next
            kind = name if name in (ACCUMULATED, AVERAGE) else f"slot/{name}"
            kind = "parameter" if name == PARAMETER else kind
            yield f"{kind}/{entry.name}", entry, array[place].reshape(entry.shape)
    for slot, array in partition.matrices.get(entry.name, {}).items():
        yield f"slot/{slot}/{entry.name}", entry, array


def _make_tensor_source(backend: Backend, name: str, entry: TensorEntry, array: Array) -> TensorSource:
    return TensorSource(name, entry.dtype, tuple(array.shape), partial(backend.to_host, array))
