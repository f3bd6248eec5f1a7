"""Replacement of a program's constants by scalars that are passed with each call.

Formulas that differ in their numbers alone then share a kernel, which matters where callers
make them up and try one number after the other. The arithmetic is the same: either way a
number is rounded to the compute dtype once.
"""

from __future__ import annotations

import dataclasses

from optserve_server.arrays.program import Constant, Operand, Program, Scalar


def replace_constants(program: Program) -> tuple[Program, dict[str, float]]:
    """The program without constants, and the numbers for the scalars that replace them."""
    names: dict[Operand, Scalar] = {}
    numbers: dict[str, float] = {}
    for x in program.operands:
        if isinstance(x, Constant) and x not in names:
            names[x] = Scalar(f"constant {len(numbers)}")
            numbers[names[x].name] = x.value

    def move(x: Operand) -> Operand:
        return names.get(x, x)

    without = dataclasses.replace(
        program,
        scalars=(*program.scalars, *numbers),
        instructions=tuple(
            dataclasses.replace(k, operands=tuple(map(move, k.operands))) for k in program.instructions
        ),
        stores=tuple((name, move(x)) for name, x in program.stores),
        reductions=tuple(dataclasses.replace(r, operand=move(r.operand)) for r in program.reductions),
    )
    return without, numbers
