"""Sources of kernels, put together and compiled for a device once in a process."""

from __future__ import annotations

import functools
import re
import threading
from pathlib import Path
from typing import Any

from gpuload.core.codes import codes_header
from gpuload.core.device import Device

_INCLUDE = re.compile(r'#include "([^"]+)"')
_compiling = threading.Lock()


def kernel_source(file: str) -> str:
    """Return the text of a kernel's source, with each file that it includes in place of the `#include`, once.

    The text is complete because CuPy's cache on disk is keyed by it: a change in an included file must change the text.
    `#line` directives keep the names and lines of files in the compiler's messages. Includes stand outside of `#if`.

    Args:
        file: A path within the folder `kernels`, such as "window.cu".
    """
    return "\n".join(_assembled(file, set())) + "\n"


def _assembled(file: str, included: set[str]) -> list[str]:
    included.add(file)
    lines = [f'#line 1 "{file}"']
    for number, line in enumerate(_text(file).splitlines(), 1):
        found = _INCLUDE.match(line)
        if not found:
            lines.append(line)
        elif found[1] not in included:
            lines += [*_assembled(found[1], included), f'#line {number + 1} "{file}"']
        else:
            lines.append("")
    return lines


def _text(file: str) -> str:
    """Return the text of one file: generated, beside the package (a checkout), or in the package (a wheel)."""
    if file == "codes.h":
        return codes_header()
    package = Path(__file__).parents[1]
    for folder in (package.parent / "kernels", package / "kernels"):
        if (folder / file).is_file():
            return (folder / file).read_text()
    raise FileNotFoundError(
        f"kernels/{file} is neither beside nor in {package}: install gpuload again, with the files of its wheel"
    )


def kernel(file: str, name: str, options: tuple[str, ...], device: Device) -> Any:
    """Return a function of a CUDA source, compiled for a device, once in a process: a `cupy.RawKernel`.

    Args:
        file: The source, such as "window.cu".
        name: The function, such as "window_copy".
        options: Options of the compiler.
        device: The GPU.

    Raises:
        ImportError: If CuPy or NVIDIA's compiler library (NVRTC) is missing.
        RuntimeError: If the source does not compile.
    """
    with _compiling:
        return _compiled(file, name, options, device)


@functools.cache
def _compiled(file: str, name: str, options: tuple[str, ...], device: Device) -> Any:
    try:
        import cupy
    except ImportError:
        raise ImportError("kernels on a GPU need CuPy, which is not installed: pip install 'gpuload[cuda13]'") from None
    try:
        with cupy.cuda.Device(device.index):
            function = cupy.RawModule(code=kernel_source(file), options=options).get_function(name)
            function.kernel  # noqa: B018 - compiles and loads it now
            return function
    except cupy.cuda.compiler.CompileException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        raise RuntimeError(f"kernels/{file} does not compile for {device} with {' '.join(options)}: {first}") from error
    except RuntimeError as error:
        if "nvrtc" not in str(error).lower():
            raise
        raise ImportError(
            f"kernels on a GPU need NVIDIA's compiler library NVRTC, which CuPy does not find ({error}): "
            "pip install 'gpuload[cuda13]'"
        ) from error
