"""How far Keras has come in a data set that it asks for by number, and how another process goes on from there."""

from __future__ import annotations

import random
import threading
from typing import Any

from keras.utils import PyDataset

from gpuload.core.checks import checked_int
from gpuload.keras.backend import asks_ahead
from gpuload.run import checkpoint


class ResumableDataset(PyDataset):
    """A `PyDataset` that tells where Keras stands, and can begin there.

    What Keras does is told from its calls. `fit` and `evaluate` read `num_batches` and call `on_epoch_end`; then come
    epochs, each between `on_epoch_begin` and `on_epoch_end`. A pass through the numbers begins where `num_batches` is
    read in an epoch and a batch is asked for; with `steps_per_epoch` it lasts several epochs. Where a model, its loss
    or its metrics are yet to be built, Keras looks at a first batch before all this, in an epoch of its own, before
    which it reads `num_batches`, but calls no `on_epoch_end`.
    """

    _places: tuple[str, ...] = ("batch",)
    """Names of what a state says about the place where the data set stands."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.lock = threading.Lock()
        self._user: threading.Thread | None = None  # Whose `fit` is in an epoch.
        self._measured = False  # Whether `num_batches` was read since the last `on_epoch_end`.
        self._looking = False  # Whether this epoch may be but a look.
        self._shuffle_state: Any = None  # Of Python's `random` when `num_batches` was read for a pass not yet begun.
        self._counting = False  # Whether the batches of a pass are being counted,
        self._by_keras = False  # which is Keras':
        self._offset = 0  # the number of its first,
        self._count = 0  # how many it has,
        self._taken = 0  # how many of them were delivered,
        self._in_order = True  # and whether by rising numbers.
        self._loaded: dict[str, Any] | None = None  # Where the next pass begins.

    def __len__(self) -> int:
        raise NotImplementedError

    def _identity(self) -> dict[str, Any]:
        """What a state must agree in."""
        raise NotImplementedError

    def _place(self, over: bool) -> dict[str, Any]:
        """The place, beside the number of the next batch. `over`: after the end of the epoch, which is still to come;
        its last batch was delivered."""
        return {}

    def _go_to(self, place: dict[str, Any]) -> None:
        """Go to a place of a state. Raises ValueError where there is none such."""

    def _end_epoch(self) -> None:
        """What an epoch's end means."""

    def _drop(self) -> None:
        """Forget what was made ahead."""

    def state_dict(self) -> dict[str, Any]:
        """Where the data set stands, to the batch: small, for JSON, in microseconds but for the first.

        It counts the batches that were handed out. Between epochs of `fit` that is always told; within one where Keras
        asks for batches as it needs them, by rising numbers: with PyTorch, and with JAX on the CPU, under
        `fit(shuffle=False)`. After the last batch of an epoch it is the state of the next one, `initial_epoch` for a
        `fit` that goes on there.

        Raises RuntimeError where nobody can tell, or where what is to come hangs on a random generator without a seed.
        """
        with self.lock:
            if self._looking and self._taken:
                self._settle()  # While Keras looks, nobody gets to ask.
            place = self._tell() if self._loaded is None else self._loaded
            return {"version": checkpoint.VERSION, **place, **self._identity()}

    def _tell(self) -> dict[str, Any]:
        if (obstacle := self._obstacle()) is not None:
            raise RuntimeError(obstacle)
        over = 0 < self._count == self._taken
        return {"batch": 0 if over else self._offset + self._taken, **self._place(over)}

    def _obstacle(self) -> str | None:
        """Why nobody can tell how far the pass has come."""
        if self._by_keras and self._taken and (backend := asks_ahead()):
            return (
                f"state_dict() cannot tell within an epoch which batches fit has trained on, since Keras' {backend} "
                "backend asks for some ahead: save at the end of an epoch"
            )
        if self._taken < self._count and not self._in_order:
            return (
                "state_dict() cannot tell within an epoch which batches are still to come, since fit shuffles their "
                "numbers by Python's random: pass fit(shuffle=False), where samples are shuffled as ever, or save at "
                "the end of an epoch"
            )
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict()` was. Not while `fit` runs, but from a callback's `on_train_begin`, or before it.

        In `fit` the first epoch then has the batches that were left, and those that follow have all. Keras, which reads
        once how many an epoch has, warns of that one that the "input ran out of data", and goes on. With
        `steps_per_epoch` too what was left ends an epoch early.

        Raises ValueError where the state is of another source, batch size, seed or other options, saying what differs.
        """
        with self.lock:
            checkpoint.check(state, self._identity())
            if missing := [name for name in self._places if name not in state]:
                raise ValueError(f"state must be what state_dict() returned: it has no {missing[0]}")
            if checked_int("batch", state.get("batch"), 0) >= max(1, len(self)):
                raise ValueError(f"batch must be below the {len(self)} batches of an epoch, not {state['batch']!r}")
            self._drop()
            self._go_to(state)
            self._forget_pass()
            self._loaded = {name: state[name] for name in self._places}

    @property
    def num_batches(self) -> int:
        """Batches in an epoch; for Keras, where it begins a pass, those that are left of it."""
        self._measured, self._shuffle_state = True, random.getstate()
        return len(self) if self._user is None or self._taken else self._left()

    def _left(self) -> int:
        """Batches in the next pass."""
        return len(self) - (self._loaded["batch"] if self._loaded else 0)

    def on_epoch_begin(self) -> None:
        """Hand out the backend's arrays from here on; called by Keras.

        Raises RuntimeError while a `fit`, `evaluate` or `predict` in another thread goes through this data set.
        """
        here, user = threading.current_thread(), self._user
        if user is not None and user is not here and user.is_alive():
            raise RuntimeError(
                f"this data set is being consumed by fit, evaluate or predict in thread {user.name!r}: make one for "
                "each of them"
            )
        self._user, self._looking = here, self._measured

    def on_epoch_end(self) -> None:
        """Hand out NumPy arrays again, and settle what the next epoch is; called by Keras."""
        with self.lock:
            # Before its first epoch, and after a look, Keras asks how many batches there are, and calls this.
            first = self._shuffle_state is not None
            if first or self._taken >= self._count:  # With `steps_per_epoch` a pass may go on.
                self._forget_pass()
            self._user, self._measured, self._looking = None, False, False
            if first and self._loaded is not None:
                self._go_to(self._loaded)
            else:
                self._loaded = None
                self._end_epoch()

    def _begin_pass(self, counting: bool) -> None:
        """`counting`: of Keras, or of an iteration; others may ask for any numbers."""
        self._counting, self._by_keras, self._shuffle_state = counting, self._user is not None, None
        self._offset = self._loaded["batch"] if counting and self._loaded else 0
        self._count, self._taken, self._in_order = len(self) - self._offset, 0, True

    def _counted(self, number: int) -> None:
        """That batch was delivered."""
        self._in_order = self._in_order and number == self._offset + self._taken
        self._taken += 1
        self._counting = self._taken < self._count
        # `predict` begins as a look does, and so does an epoch before which a program reads `num_batches`.
        if not self._looking or self._taken > (2 if asks_ahead() else 1):
            self._settle()

    def _settle(self) -> None:
        """The pass is no look: what was loaded has been used."""
        self._looking, self._loaded = False, None

    def _forget_pass(self) -> None:
        self._counting, self._by_keras, self._in_order = False, False, True
        self._offset = self._count = self._taken = 0
