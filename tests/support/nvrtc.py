"""Compiling CUDA source without a GPU."""

from __future__ import annotations

ARCHITECTURE = "compute_90"
"""What to compile for; any will do, as nothing runs."""


def compile_ptx(source: str, options: tuple[str, ...] = ()) -> str:
    """PTX of the CUDA C text ``source``.

    Raises:
        AssertionError: it does not compile; with the compiler's log.
    """
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source, "kernel.cu", [], [])
    try:
        nvrtc.compileProgram(program, [*options, f"--gpu-architecture={ARCHITECTURE}"])
        ptx = nvrtc.getPTX(program)
        return ptx.decode() if isinstance(ptx, bytes) else str(ptx)
    except nvrtc.NVRTCError as error:
        raise AssertionError(nvrtc.getProgramLog(program)) from error
    finally:
        nvrtc.destroyProgram(program)
