"""Kernels: their sources, compiled for a device once in a process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from gpuload.core.device import Device

_kernels: dict[tuple[str, str, tuple[str, ...], int], Any] = {}


_compiling = threading.Lock()


def kernel_source(file: str) -> Path:
    """The path of a kernel's source: in the folder `kernels` beside the package, or in the installed package."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / "kernels", package / "kernels"):
        if (folder / file).is_file():
            return folder / file
    raise FileNotFoundError(
        f"kernels/{file} is neither beside nor in {package}: install gpuload again, with the files of its wheel"
    )


def kernel(file: str, name: str, options: tuple[str, ...], device: Device) -> Any:
    """The function `name` of a CUDA source, compiled for a device: a `cupy.RawKernel`.

    Compiled once for each (file, options, device) in a process; CuPy keeps what was compiled on disk as well.

    Raises ImportError where CuPy or NVIDIA's compiler library (NVRTC) is missing, RuntimeError where the source does
    not compile.
    """
    key = (file, name, options, int(device.index or 0))
    with _compiling:
        if key not in _kernels:
            _kernels[key] = _compiled(file, name, options, device)
        return _kernels[key]


def _compiled(file: str, name: str, options: tuple[str, ...], device: Device) -> Any:
    try:
        import cupy
    except ImportError:
        raise ImportError("kernels on a GPU need CuPy, which is not installed: pip install 'gpuload[cuda13]'") from None
    code = kernel_source(file).read_text()
    try:
        with cupy.cuda.Device(device.index):
            function = cupy.RawModule(code=code, options=options).get_function(name)
            function.kernel  # noqa: B018 - compiles and loads it now
            return function
    except cupy.cuda.compiler.CompileException as error:
        raise RuntimeError(
            f"kernels/{file} does not compile for {device} with {' '.join(options)}: {_first_error(str(error))}"
        ) from error
    except RuntimeError as error:
        if "nvrtc" not in str(error).lower():
            raise
        raise ImportError(
            f"kernels on a GPU need NVIDIA's compiler library NVRTC, which CuPy does not find ({error}): "
            "pip install 'gpuload[cuda13]'"
        ) from error


def _first_error(log: str) -> str:
    """The line of a compiler's output that says what is wrong.

    >>> _first_error("window.cu(3): warning: unused\\nwindow.cu(7): error: no such type\\n1 error detected")
    'window.cu(7): error: no such type'
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "no message")
