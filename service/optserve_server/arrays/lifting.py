"""A program's constants as numbers given with each call.

Formulas that differ in their numbers alone then share a kernel, which matters where callers
make them up and try one number after the other. The arithmetic is the same: either way a
number is rounded to the compute dtype once.
"""

from __future__ import annotations

import dataclasses

from optserve_server.arrays.program import Constant, Operand, Program, Scalar


def lifted(program: Program) -> tuple[Program, dict[str, float]]:
    """The program without constants, and the numbers for the scalars that replace them."""
    names: dict[Operand, Scalar] = {}
    numbers: dict[str, float] = {}
    for x in program.operands:
        if isinstance(x, Constant) and x not in names:
            names[x] = Scalar(f"constant {len(numbers)}")
            numbers[names[x].name] = x.value

    def moved(x: Operand) -> Operand:
        return names.get(x, x)

    without = dataclasses.replace(
        program,
        scalars=(*program.scalars, *numbers),
        instructions=tuple(
            dataclasses.replace(k, operands=tuple(map(moved, k.operands))) for k in program.instructions
        ),
        stores=tuple((name, moved(x)) for name, x in program.stores),
        reductions=tuple(dataclasses.replace(r, operand=moved(r.operand)) for r in program.reductions),
    )
    return without, numbers
