"""The state of an epoch of a `DataLoader`: how far it has come, and where its order comes from."""

from __future__ import annotations

import dataclasses
from typing import Any

from gpuload.core.checks import checked_int


@dataclasses.dataclass
class Epoch:
    """One epoch. A loader's state has all fields except the last two: numbers, text, and the states of samplers.

    >>> Epoch.of({**Epoch(seed=5).state(), "batches": 2, "seen": 8})
    Epoch(seed=5, number=0, batches=2, seen=8, order=None, sampler_epoch=None, sampler_state=None, finished=False)
    """

    seed: int | None = None
    """Seed that PyTorch draws for its workers; random windows draw from it. None: not drawn yet."""
    number: int = 0
    """Number of earlier epochs with this seed: with persistent workers PyTorch draws it once."""
    batches: int = 0
    """Number of batches delivered."""
    seen: int = 0
    """Number of windows in them."""
    order: int | str | None = None
    """Origin of the sampler's draws: a seed, or a generator's state. None: it has not drawn, or does not draw."""
    sampler_epoch: int | None = None
    """Epoch that the sampler's `set_epoch` was told."""
    sampler_state: Any = None
    """State of a stateful sampler after the batch that was delivered last."""
    finished: bool = False
    """Whether that batch was the last of the epoch before, at the sampler's end."""
    begun: bool = dataclasses.field(default=False, repr=False)
    """Whether the epoch has an iterator."""
    sampler_end: Any = dataclasses.field(default=None, repr=False)
    """The sampler's state after all batches were read from it, which is ahead of the delivered ones."""

    def state(self) -> dict[str, Any]:
        """Return the fields that a state keeps."""
        return {name: getattr(self, name) for name in KEPT}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Epoch:
        """Return the epoch of a state. Raise ValueError if the state has none."""
        if missing := [name for name in KEPT if name not in state]:
            expected = "what state_dict() of the same kind of loader returned"
            raise ValueError(f"state must be {expected}: it has no {missing[0]}")
        for name in ("number", "batches", "seen"):
            checked_int(name, state[name], 0)
        return cls(**{name: state[name] for name in KEPT})

    def restart(self) -> None:
        """Go back to the first batch, with other random numbers."""
        self.number += 1
        self.batches, self.seen, self.order, self.sampler_state, self.finished = 0, 0, None, None, False

    def following(self, persistent: bool) -> Epoch:
        """Return the next epoch. With `persistent` workers it has the same seed."""
        following = Epoch(sampler_state=self.sampler_end, finished=self.sampler_end is not None)
        if persistent:
            following.seed, following.number = self.seed, self.number + 1
        return following


KEPT = tuple(field.name for field in dataclasses.fields(Epoch) if field.repr)
