"""Generator of CUDA C source for a program. Needs no GPU and no CuPy.

The arithmetic of one element is plain C, so that a host compiler can prove it: everything
that `element_source` gives compiles as C as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from optserve_server.arrays.narrow_floats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from optserve_server.arrays.program import Load, Op, Program, ReductionKind
from optserve_server.arrays.reductions import BLOCK, LANES
from optserve_server.arrays.source_generation import FUNCTIONS, INFIX, OperandNames, find_loads, find_stores

OPTIONS = ("--fmad=false",)
"""Compiler options: no contraction. Division and roots are correctly rounded by default."""

C_TYPES = {FLOAT16: "unsigned short", BFLOAT16: "unsigned short", FLOAT32: "float", FLOAT64: "double"}
"""What an element of each storage dtype is in C."""

PREAMBLE = """
#ifdef __CUDACC__
#define FUNCTION static __device__ __forceinline__
FUNCTION unsigned int bits_of(float x) { return __float_as_uint(x); }
FUNCTION float float_of(unsigned int bits) { return __uint_as_float(bits); }
#else
#include <math.h>
#include <string.h>
#define FUNCTION static inline
FUNCTION unsigned int bits_of(float x) { unsigned int bits; memcpy(&bits, &x, 4); return bits; }
FUNCTION float float_of(unsigned int bits) { float x; memcpy(&x, &bits, 4); return x; }
#endif

FUNCTION float decode_bfloat16(unsigned short h) { return float_of((unsigned int)h << 16); }

FUNCTION float decode_float16(unsigned short h) {
  unsigned int magnitude = h & 0x7fffu;
  unsigned int bits = (magnitude << 13) + 0x38000000u;
  if (magnitude < 0x400u) bits = bits_of((float)(int)magnitude * 5.9604644775390625e-8f);
  if (magnitude >= 0x7c00u) bits = (magnitude << 13) | 0x7f800000u;
  return float_of(bits | ((h & 0x8000u) << 16));
}

/* Rounds to the odd neighbour where inexact: the result can be rounded again. */
FUNCTION float round_to_odd(double x) {
  float near = (float)x;
  double wide = (double)near;
  unsigned int bits = bits_of(near);
  if (wide == x || x != x) return near;
  if (fabs(wide) > fabs(x)) bits -= 1u;
  return float_of(bits | 1u);
}

FUNCTION unsigned short encode_bfloat16(float x) {
  unsigned int bits = bits_of(x);
  if (x != x) return 0x7fc0u;
  return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

FUNCTION unsigned short encode_float16(float x) {
  unsigned int magnitude = bits_of(x) & 0x7fffffffu;
  unsigned int bits = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  /* Below 2**-14 the unit is 2**-24: adding 2**23 units rounds to whole ones. */
  if (magnitude < 0x38800000u) bits = bits_of(float_of(magnitude) * 16777216.0f + 8388608.0f) - 0x4b000000u;
  if (magnitude >= 0x477ff000u) bits = 0x7c00u;
  if (x != x) bits = 0x7e00u;
  return (unsigned short)(bits | ((bits_of(x) >> 16) & 0x8000u));
}
"""

SEARCH = """
/* The index of the first of ascending marks that is greater than position. */
FUNCTION long long find_first_greater(const long long* marks, long long count, long long position) {
  long long low = 0, high = count;
  while (low < high) {
    long long middle = (low + high) / 2;
    if (marks[middle] > position) high = middle; else low = middle + 1;
  }
  return low;
}
"""

EXPRESSIONS = {
    **INFIX,
    **{op: f"{op}{{f}}({{0}})" for op in FUNCTIONS},
    Op.SELECT: "{0} ? {1} : {2}",
    Op.ABS: "fabs{f}({0})",
    Op.SIGN: "{0} > 0 ? (real)1 : {0} < 0 ? (real)-1 : {0} == 0 ? (real)0 : {0}",
    Op.MAXIMUM: "({0} > {1} || {0} != {0}) ? {0} : {1}",
    Op.MINIMUM: "({0} < {1} || {0} != {0}) ? {0} : {1}",
}

SUMMANDS = {
    ReductionKind.SUM_OF_SQUARES: "(double){0} * (double){0}",
    ReductionKind.SUM_OF_MAGNITUDES: "fabs((double){0})",
    ReductionKind.NON_FINITE_COUNT: "{0} - {0} == 0 ? 0.0 : 1.0",
}
"""What a value adds to its lane."""

PLAIN = """
extern "C" __global__ void kernel({parameters}) {{
  const long long stride = (long long)gridDim.x * blockDim.x;
  for (long long i = low + (long long)blockIdx.x * blockDim.x + threadIdx.x; i < high; i += stride) {{
    {segment}
    element({arguments});
  }}
}}
"""

REDUCING = """
extern "C" __global__ void kernel({parameters}) {{
  __shared__ double lanes[{LANES}];
  const int lane = threadIdx.x;
  for (long long block = low + blockIdx.x; block < high; block += gridDim.x) {{
    const long long segment = find_first_greater(firsts, segments + 1, block) - 1;
    const long long start = starts[segment] + (block - firsts[segment]) * {BLOCK};
    const long long stop = start + {BLOCK} < ends[segment] ? start + {BLOCK} : ends[segment];
    {zero}
    for (long long i = start + lane; i < stop; i += {LANES}) {{
      {values}
      element({arguments});
      {added}
    }}
{folded}
  }}
}}
"""

FOLD = """    lanes[lane] = t{0};
    for (int width = {half}; width > 0; width /= 2) {{
      __syncthreads();
      if (lane < width) lanes[lane] += lanes[lane + width];
    }}
    if (lane == 0) sums[{0} * blocks + block] = lanes[0];
    __syncthreads();"""


def element_source(program: Program, dtype: np.dtype[Any], dtypes: Sequence[np.dtype[Any]]) -> str:
    """The text of ``element``, which computes element i; CUDA and host C.

    Args:
        program: the program.
        dtype: the compute dtype.
        dtypes: the storage dtype of each of the program's arrays.

    Returns:
        Text with the type ``real`` and ``void element(i, a0.., s0.., c0.., *v0..)``: the
        arrays, the scalars and segment scalars as ``real``, and where to put the value of
        each reduction's operand.
    """
    parameters = ["long long i"]
    parameters += [f"{_pointer_declaration(program, dtypes, i)}" for i in range(len(program.arrays))]
    parameters += [f"real s{i}" for i in range(len(program.scalars))]
    parameters += [f"real c{i}" for i in range(len(program.segment_scalars))]
    parameters += [f"real *v{i}" for i in range(len(program.reductions))]
    body = "\n".join(
        f"  {line}" for line in _element_statements(OperandNames.from_program(program), dtype, dtypes)
    )
    return (
        f"{PREAMBLE}\ntypedef {C_TYPES[dtype]} real;\n\n"
        f"FUNCTION void element({', '.join(parameters)}) {{\n{body}\n}}\n"
    )


def cuda_source(program: Program, dtype: np.dtype[Any], dtypes: Sequence[np.dtype[Any]]) -> str:
    """The text of a module with the kernel ``kernel``.

    It computes the elements, or where the program reduces the blocks, from ``low`` to before
    ``high``. Its parameters are ``low, high, blocks, segments, starts, ends, firsts, runs,
    sums, a0.., n0..``: the counts of all blocks and segments, the cut, the segments' numbers,
    the blocks' sums, the arrays, and the scalars as double. A program that reduces needs
    blocks of `LANES` threads.
    """
    rows = range(len(program.reductions))
    numbers = range(len(program.scalars))
    runs = [f"(real)runs[{i} * segments + segment]" for i in range(len(program.segment_scalars))]
    arguments = ["i", *(f"a{i}" for i in range(len(program.arrays))), *(f"(real)n{i}" for i in numbers)]
    text = (REDUCING if rows else PLAIN).format(
        parameters=", ".join(_parameter_declarations(program, dtypes)),
        arguments=", ".join(arguments + runs + [f"&v{i}" for i in rows]),
        segment="const long long segment = find_first_greater(ends, segments, i);" if runs else "",
        zero=" ".join(f"double t{i} = 0.0;" for i in rows),
        values=" ".join(f"real v{i};" for i in rows),
        added=" ".join(_accumulation_statement(i, r.kind) for i, r in enumerate(program.reductions)),
        folded="\n".join(FOLD.format(i, half=LANES // 2) for i in rows),
        LANES=LANES, BLOCK=BLOCK,
    )  # fmt: skip
    return element_source(program, dtype, dtypes) + SEARCH + text


def _accumulation_statement(number: int, kind: ReductionKind) -> str:
    return f"t{number} += {SUMMANDS[kind].format(f'v{number}')};"


def _parameter_declarations(program: Program, dtypes: Sequence[np.dtype[Any]]) -> list[str]:
    counts = [f"long long {name}" for name in ("low", "high", "blocks", "segments")]
    cut = [f"const long long *{name}" for name in ("starts", "ends", "firsts")]
    arrays = [_pointer_declaration(program, dtypes, i) for i in range(len(program.arrays))]
    numbers = [f"double n{i}" for i in range(len(program.scalars))]
    return [*counts, *cut, "const double *runs", "double *sums", *arrays, *numbers]


def _pointer_declaration(program: Program, dtypes: Sequence[np.dtype[Any]], number: int) -> str:
    const = "" if program.arrays[number] in find_stores(program) else "const "
    return f"{const}{C_TYPES[dtypes[number]]} *a{number}"


def _element_statements(
    names: OperandNames, dtype: np.dtype[Any], dtypes: Sequence[np.dtype[Any]]
) -> list[str]:
    program = names.program
    suffix = "f" if dtype == FLOAT32 else ""
    lines = [f"const real k{i} = {_float_literal(x.value, dtype)};" for i, x in enumerate(names.constants)]
    for i in find_loads(program):
        name = names[Load(program.arrays[i])]
        lines.append(f"const real {name} = {_decode_expression(f'a{i}[i]', dtypes[i])};")
    for i, k in enumerate(program.instructions):
        expression = EXPRESSIONS[k.op].format(*[names[x] for x in k.operands], f=suffix)
        lines.append(f"const real r{i} = {expression};")
    for name, x in program.stores:
        number = program.arrays.index(name)
        lines.append(f"a{number}[i] = {_encode_expression(names[x], dtype, dtypes[number])};")
    return lines + [f"*v{i} = {names[r.operand]};" for i, r in enumerate(program.reductions)]


def _float_literal(value: float, dtype: np.dtype[Any]) -> str:
    """``value`` rounded to ``dtype``, exactly."""
    with np.errstate(over="ignore"):
        rounded = float(dtype.type(value))
    if math.isnan(rounded):
        return "float_of(0x7fc00000u)"
    if math.isinf(rounded):
        return f"{'-' if rounded < 0 else ''}float_of(0x7f800000u)"
    return rounded.hex() + ("f" if dtype == FLOAT32 else "")


def _decode_expression(element: str, storage: np.dtype[Any]) -> str:
    return f"decode_{storage.name}({element})" if storage in (FLOAT16, BFLOAT16) else f"(real){element}"


def _encode_expression(value: str, dtype: np.dtype[Any], storage: np.dtype[Any]) -> str:
    if storage not in (FLOAT16, BFLOAT16):
        return f"({C_TYPES[storage]}){value}"
    return f"encode_{storage.name}({f'round_to_odd({value})' if dtype == FLOAT64 else value})"
