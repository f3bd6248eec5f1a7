"""Register allocation of a program, for executors that work by blocks.

A value is written straight to the array it is stored to if nothing still needs what
the array held; otherwise to a scratch register, which is reused once its last reader ran.
"""

from __future__ import annotations

import dataclasses
from enum import Enum

from optserve_server.arrays.program import Load, Op, Operand, Program, Result

COMPARISONS = frozenset({Op.LESS, Op.LESS_EQUAL, Op.GREATER, Op.GREATER_EQUAL, Op.EQUAL})

MULTIPASS = frozenset({Op.SELECT, Op.MAXIMUM, Op.MINIMUM})
"""Operations that may read operands again after they began to write their result."""


class Bank(Enum):
    """Kinds of buffers."""

    FLOAT = "float"
    BOOL = "bool"
    ARRAY = "array"


@dataclasses.dataclass(frozen=True)
class Location:
    """A register by number, or the array (by number) that the value is stored to."""

    bank: Bank
    number: int


@dataclasses.dataclass(frozen=True)
class RegisterAllocation:
    """Register allocation of a program.

    Attributes:
        results: the location of each instruction's result.
        copies: stores still to be done at the end: array name and operand.
        floats: how many registers of the compute dtype are needed.
        bools: how many registers for conditions.
        held: arrays whose old elements must be copied before the first instruction.
    """

    results: tuple[Location, ...]
    copies: tuple[tuple[str, Operand], ...]
    floats: int
    bools: int
    held: frozenset[str]


def allocate_registers(program: Program, plain: frozenset[str]) -> RegisterAllocation:
    """Allocates registers for the values of ``program``.

    Args:
        program: the program.
        plain: names of the arrays that are stored in the compute dtype.
    """
    last = _last_uses(program)
    direct = _direct_stores(program, plain, last)
    free: dict[Bank, list[int]] = {Bank.FLOAT: [], Bank.BOOL: []}
    made = {Bank.FLOAT: 0, Bank.BOOL: 0}
    results: list[Location] = []

    for index, instruction in enumerate(program.instructions):
        ended = {x for x in instruction.operands if isinstance(x, Result) and last[x] == index}
        freed = [results[x.index] for x in ended if results[x.index].bank is not Bank.ARRAY]
        late = freed if instruction.op in MULTIPASS else []
        for place in freed if not late else []:
            free[place.bank].append(place.number)
        bank = Bank.BOOL if instruction.op in COMPARISONS else Bank.FLOAT
        if index in direct:
            results.append(Location(Bank.ARRAY, program.arrays.index(direct[index])))
        else:
            if not free[bank]:
                free[bank].append(made[bank])
                made[bank] += 1
            results.append(Location(bank, free[bank].pop()))
        for place in late:
            free[place.bank].append(place.number)

    written = set(direct.values())
    copies = tuple((name, x) for name, x in program.stores if name not in written)
    return RegisterAllocation(
        tuple(results), copies, made[Bank.FLOAT], made[Bank.BOOL], _find_overwritten(program)
    )


def _last_uses(program: Program) -> dict[Operand, int]:
    """The last instruction that reads each operand; their count, for the end."""
    last = {x: i for i, k in enumerate(program.instructions) for x in k.operands}
    end = len(program.instructions)
    last.update({x: end for _, x in program.stores})
    last.update({r.operand: end for r in program.reductions})
    return last


def _direct_stores(program: Program, plain: frozenset[str], last: dict[Operand, int]) -> dict[int, str]:
    """Instructions that may write to an array at once, with its name."""
    direct: dict[int, str] = {}
    for name, x in program.stores:
        if name not in plain or not isinstance(x, Result) or x.index in direct:
            continue
        read = last.get(Load(name), -1)
        again = program.instructions[x.index].op in MULTIPASS
        if read < x.index or (read == x.index and not again):
            direct[x.index] = name
    return direct


def _find_overwritten(program: Program) -> frozenset[str]:
    """Returns the arrays that are overwritten before another one has received their old elements."""
    stored = {name for name, _ in program.stores}
    return frozenset(x.name for _, x in program.stores if isinstance(x, Load) and x.name in stored)
