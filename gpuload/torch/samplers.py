"""What PyTorch's samplers, and those that users write, tell of where they stand, by the conventions of PyTorch and
torchdata."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator
from typing import Any

import torch


def _chain(sampler: Any) -> Iterator[Any]:
    """A sampler, and the one that it takes numbers from, if it names one."""
    yield sampler
    if hasattr(sampler, "sampler"):
        yield sampler.sampler


def generator_of(sampler: Any) -> torch.Generator | None:
    """Whom a sampler asks for random numbers: its `generator`, or PyTorch's global one where that is None. None: it
    does not say."""
    for each in _chain(sampler):
        if hasattr(each, "generator"):
            generator = torch.default_generator if each.generator is None else each.generator
            return generator if isinstance(generator, torch.Generator) else None
    return None


def epoch_of(sampler: Any) -> int | None:
    """What `set_epoch` told a sampler that has it."""
    for each in _chain(sampler):
        if hasattr(each, "set_epoch") and isinstance(getattr(each, "epoch", None), int):
            return int(each.epoch)
    return None


def set_epoch(sampler: Any, epoch: int) -> None:
    """Tell a sampler the epoch, if it wants to know."""
    for each in _chain(sampler):
        if hasattr(each, "set_epoch"):
            each.set_epoch(epoch)
            return


def saved(generator: torch.Generator) -> str:
    """How a generator stands, as text: 7 kB of PyTorch's on the CPU."""
    return base64.b64encode(generator.get_state().numpy().tobytes()).decode()


def restore(generator: torch.Generator, drawn_from: int | str) -> None:
    """Have a generator stand as `saved` told, or at the start of a seed."""
    if isinstance(drawn_from, int):
        generator.manual_seed(drawn_from)
    else:
        generator.set_state(torch.frombuffer(bytearray(base64.b64decode(drawn_from)), dtype=torch.uint8))


def is_stateful(sampler: Any) -> bool:
    """Whether a sampler, or an iterator of it, has a state, by torchdata's convention."""
    return hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict")


def state_of(sampler: Any, iterator: Any = None, ended: bool = False) -> dict[str, Any]:
    """The states that a sampler and its iterator have, which do not change any more. `ended`: whether the iterator told
    its end."""
    named = {"sampler": sampler, "iterator": iterator}
    states = {name: copy.deepcopy(each.state_dict()) if is_stateful(each) else None for name, each in named.items()}
    return {**states, "ended": ended}


def load(sampler: Any, state: dict[str, Any]) -> Iterator[Any]:
    """An iterator that stands where `state_of` told."""
    iterator = _loaded(sampler, state)
    if not state["ended"]:
        return iterator
    # torchdata's are then at the end of the pass that is over, and must come to it again. Those that stand at the start
    # of the next are left there.
    for _ in iterator:
        _loaded(sampler, {**state, "iterator": None})
        break
    return iter(())


def _loaded(sampler: Any, state: dict[str, Any]) -> Iterator[Any]:
    if state["sampler"] is not None:
        sampler.load_state_dict(state["sampler"])
    iterator: Any = iter(sampler)
    if state["iterator"] is not None:
        iterator.load_state_dict(state["iterator"])
    found: Iterator[Any] = iterator
    return found
