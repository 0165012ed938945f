"""Compiles kernels for GPUs that are not here, with NVIDIA's compiler library or with nvcc."""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import importlib.util
import multiprocessing
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from gpuload.gpu.compile import kernel_source

from .kept import kept, name_of

ARCHITECTURES = ("sm_90", "sm_75", "sm_80", "sm_100")
FTZ = "-ftz=true"
"""An option that CuPy adds."""


class Job(NamedTuple):
    """A source to be compiled."""

    file: str
    architecture: str
    options: tuple[str, ...]


def every(file: str, variants: Iterable[tuple[str, ...]]) -> list[Job]:
    """Return a job for every set of options and every architecture."""
    return [Job(file, architecture, options) for options in variants for architecture in ARCHITECTURES]


def spread(file: str, variants: Iterable[tuple[str, ...]]) -> list[Job]:
    """Return a job for every set of options, each for one architecture. Sets of options with the same type of input go
    to different architectures, so that each architecture sees all types."""
    types: dict[str, int] = {}
    jobs = []
    for options in variants:
        (kind,) = (option for option in options if option.startswith("-DIN="))
        # The next architecture for each set of options of a type; the first one differs from type to type.
        turn = types[kind] = types.get(kind, len(types) - 1) + 1
        jobs.append(Job(file, ARCHITECTURES[turn % len(ARCHITECTURES)], options))
    return jobs


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return NVRTC, from its wheel or the system; None if there is none."""
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


@functools.cache
def version() -> str:
    """Return the version of the compiler."""
    if (found := library()) is None:
        return subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = ctypes.c_int(), ctypes.c_int()
    found.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"nvrtc {major.value}.{minor.value}"


def available() -> bool:
    """Return whether there is a compiler."""
    return library() is not None or shutil.which("nvcc") is not None


def _key(job: Job) -> tuple[str, ...]:
    return (version(), kernel_source(job.file), job.architecture, *job.options)


def compiled(job: Job) -> str:
    """Compile to machine code, as CuPy does; return the compiler's log. Raise RuntimeError with it."""
    found = library()

    def make(path: Path) -> None:
        path.write_text(_by_nvcc(job) if found is None else _by_nvrtc(found, job))

    return kept(".log", make, *_key(job)).read_text()


def all_compiled(jobs: list[Job]) -> list[str]:
    """Compile all jobs, in as many processes as there are CPUs: NVRTC compiles one program at a time."""
    missing = [job for job in jobs if not name_of(".log", *_key(job)).exists()]
    if missing:
        with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
            list(pool.map(compiled, missing, chunksize=4))
    return [compiled(job) for job in jobs]


def assert_clean(jobs: list[Job]) -> None:
    """Assert that jobs compile without a warning, and that their kernels neither spill registers nor use a stack."""
    for job, log in zip(jobs, all_compiled(jobs), strict=True):
        assert "warning" not in log.lower(), (job, log)
        assert set(re.findall(r"(\d+) bytes (?:spill|stack)", log)) <= {"0"}, (job, log)


def _by_nvrtc(nvrtc: ctypes.CDLL, job: Job) -> str:
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    source = kernel_source(job.file).encode()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, job.file.encode(), 0, None, None)
    options = (*job.options, FTZ, f"-arch={job.architecture}", "--ptxas-options=-v")
    given = [option.encode() for option in options]
    status = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if status:
        raise RuntimeError(log.value.decode())
    return log.value.decode()


def _by_nvcc(job: Job) -> str:
    arguments = ["nvcc", "-cubin", f"-arch={job.architecture}", *job.options, FTZ, "--resource-usage", "-o", os.devnull]
    done = subprocess.run(
        [*arguments, "-x", "cu", "-"], input=kernel_source(job.file), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stderr
