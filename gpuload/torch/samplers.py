"""States of samplers, PyTorch's and the user's, by the conventions of PyTorch and torchdata."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator
from typing import Any, cast

import torch


def _chain(sampler: Any) -> Iterator[Any]:
    """Yield a sampler, and the sampler that it takes numbers from, if it names one."""
    yield sampler
    if hasattr(sampler, "sampler"):
        yield sampler.sampler


def generator_of(sampler: Any) -> torch.Generator | None:
    """Return a sampler's `generator`, or PyTorch's global one if that is None. None: it has no such attribute."""
    for each in _chain(sampler):
        if hasattr(each, "generator"):
            generator = torch.default_generator if each.generator is None else each.generator
            return generator if isinstance(generator, torch.Generator) else None
    return None


def epoch_of(sampler: Any) -> int | None:
    """Return the epoch that `set_epoch` told a sampler, or None."""
    told = (getattr(each, "epoch", None) for each in _chain(sampler) if hasattr(each, "set_epoch"))
    return next((int(epoch) for epoch in told if isinstance(epoch, int)), None)


def set_epoch(sampler: Any, epoch: int) -> None:
    """Tell a sampler the epoch, if it has `set_epoch`."""
    for each in _chain(sampler):
        if hasattr(each, "set_epoch"):
            each.set_epoch(epoch)
            return


def saved(generator: torch.Generator) -> str:
    """Return a generator's state as text: 7 kB for PyTorch's on the CPU."""
    return base64.b64encode(generator.get_state().numpy().tobytes()).decode()


def restore(generator: torch.Generator, drawn_from: int | str) -> None:
    """Set a generator to a state of `saved`, or seed it."""
    if isinstance(drawn_from, int):
        generator.manual_seed(drawn_from)
    else:
        generator.set_state(torch.frombuffer(bytearray(base64.b64decode(drawn_from)), dtype=torch.uint8))


def is_stateful(sampler: Any) -> bool:
    """Whether a sampler, or its iterator, has a state, by torchdata's convention."""
    return hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict")


def state_of(sampler: Any, iterator: Any = None, ended: bool = False) -> dict[str, Any]:
    """Return copies of the states of a sampler and its iterator. `ended`: the iterator has reached its end."""
    named = {"sampler": sampler, "iterator": iterator}
    states = {name: copy.deepcopy(each.state_dict()) if is_stateful(each) else None for name, each in named.items()}
    return {**states, "ended": ended}


def load(sampler: Any, state: dict[str, Any]) -> Iterator[Any]:
    """Return an iterator at the place of a state of `state_of`."""
    iterator = _loaded(sampler, state)
    if not state["ended"]:
        return iterator
    # Samplers of torchdata are then at the end of the finished pass, and must reach it again. Samplers that are at the
    # start of the next pass are left there.
    for _ in iterator:
        _loaded(sampler, {**state, "iterator": None})
        break
    return iter(())


def _loaded(sampler: Any, state: dict[str, Any]) -> Iterator[Any]:
    if state["sampler"] is not None:
        sampler.load_state_dict(state["sampler"])
    iterator: Iterator[Any] = iter(sampler)
    if state["iterator"] is not None:
        cast(Any, iterator).load_state_dict(state["iterator"])
    return iterator
