"""How far an epoch of a `DataLoader` has come, and what it needs to be begun again."""

from __future__ import annotations

import dataclasses
from typing import Any

from gpuload.core.checks import checked_int


@dataclasses.dataclass
class Epoch:
    """One epoch. All but the last two fields are in a loader's state: numbers and text, and what a sampler tells.

    >>> Epoch.of({**Epoch(seed=5).state(), "batches": 2, "seen": 8})
    Epoch(seed=5, number=0, batches=2, seen=8, order=None, sampler_epoch=None, sampler_state=None, finished=False)
    """

    seed: int | None = None
    """What PyTorch draws for its workers; random windows draw from it. None: not drawn yet."""
    number: int = 0
    """Epochs before it that had this seed: with persistent workers PyTorch draws it once."""
    batches: int = 0
    """Those that were delivered."""
    seen: int = 0
    """Windows in them."""
    order: int | str | None = None
    """What the sampler drew from: a seed, or how a generator stood before. None: it has not drawn, or does not draw."""
    sampler_epoch: int | None = None
    """What the sampler's `set_epoch` was told."""
    sampler_state: Any = None
    """Of a sampler that has one: as it was after the batch that was delivered last."""
    finished: bool = False
    """Whether that was the last batch of the epoch before, with which the sampler has come to its end."""
    begun: bool = dataclasses.field(default=False, repr=False)
    """Whether it has an iterator."""
    sampler_end: Any = dataclasses.field(default=None, repr=False)
    """The sampler's state when all batches were read from it, which is ahead of what was delivered."""

    def state(self) -> dict[str, Any]:
        """What is kept of it."""
        return {name: getattr(self, name) for name in KEPT}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Epoch:
        """The epoch that a state tells of. Raises ValueError where it tells of none."""
        if missing := [name for name in KEPT if name not in state]:
            raise ValueError(
                f"state must be what state_dict() of the same kind of loader returned: it has no {missing[0]}"
            )
        for name in ("number", "batches", "seen"):
            checked_int(name, state[name], 0)
        return cls(**{name: state[name] for name in KEPT})

    def deliver(self, batches: int, seen: int, sampler_state: Any) -> None:
        """So many batches were delivered."""
        self.batches, self.seen, self.sampler_state, self.finished = batches, seen, sampler_state, False

    def restart(self) -> None:
        """Begin with the first batch, and with other random numbers."""
        self.number += 1
        self.batches, self.seen, self.order, self.sampler_state, self.finished = 0, 0, None, None, False

    def following(self, persistent: bool) -> Epoch:
        """The one after this one. `persistent`: with the same seed."""
        following = Epoch(sampler_state=self.sampler_end, finished=self.sampler_end is not None)
        if persistent:
            following.seed, following.number = self.seed, self.number + 1
        return following


KEPT = tuple(field.name for field in dataclasses.fields(Epoch) if field.repr)
