"""Compiles kernels for GPUs that are not here, by NVIDIA's compiler library or by nvcc."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from gpuload.gpu.compile import kernel_source


@functools.cache
def library() -> ctypes.CDLL | None:
    """NVRTC, from its wheel or the system; None where there is none."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    files = [file for folder in folders for file in sorted(folder.glob("*/lib/libnvrtc.so.1?"))]
    for file in [*files, "libnvrtc.so.13", "libnvrtc.so.12"]:
        try:
            for part in Path(file).parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(part))  # NVRTC opens it by its bare name, and then finds it opened.
            return ctypes.CDLL(str(file))
        except OSError:
            continue
    return None


def available() -> bool:
    """Whether there is a compiler."""
    return library() is not None or shutil.which("nvcc") is not None


def compiled(file: str, architecture: str, options: tuple[str, ...]) -> str:
    """Compile to machine code, as CuPy does; returns the compiler's log. Raises RuntimeError with it."""
    found = library()
    return _by_nvcc(file, architecture, options) if found is None else _by_nvrtc(found, file, architecture, options)


def _by_nvrtc(nvrtc: ctypes.CDLL, file: str, architecture: str, options: tuple[str, ...]) -> str:
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    source = kernel_source(file).read_bytes()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, file.encode(), 0, None, None)
    given = [option.encode() for option in (*options, f"-arch={architecture}", "--ptxas-options=-v")]
    status = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if status:
        raise RuntimeError(log.value.decode())
    return log.value.decode()


def _by_nvcc(file: str, architecture: str, options: tuple[str, ...]) -> str:
    arguments = ["nvcc", "-cubin", f"-arch={architecture}", *options, "--resource-usage", "-o", os.devnull]
    done = subprocess.run([*arguments, str(kernel_source(file))], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stderr
