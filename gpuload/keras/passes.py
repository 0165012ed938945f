"""The place of Keras in a data set that it asks for by number, and how another process goes on from there."""

from __future__ import annotations

import functools
import random
import threading
from typing import Any

from keras.utils import PyDataset

from gpuload.core.checks import checked_int
from gpuload.keras.backend import asks_ahead
from gpuload.run import checkpoint


class ResumableDataset(PyDataset):
    """A `PyDataset` that tells where Keras stands, and can begin there.

    Keras' calls show what it does. `fit` and `evaluate` read `num_batches` and call `on_epoch_end`; then come epochs,
    each between `on_epoch_begin` and `on_epoch_end`. A pass through the numbers begins when `num_batches` is read in an
    epoch and a batch is asked for; with `steps_per_epoch` it lasts several epochs. If a model, its loss or its metrics
    are not built yet, Keras first looks at one batch, in an epoch of its own: it reads `num_batches` before it, and
    does not call `on_epoch_end`.
    """

    _places: tuple[str, ...] = ("batch",)
    """Names in a state that tell the place of the data set."""
    _as_keras = False
    """Whether a program that asks for numbers by itself makes a pass too, and gets the backend's arrays."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.lock = threading.Lock()
        self._user: threading.Thread | None = None  # The thread whose `fit` is in an epoch.
        self._measured = False  # Whether `num_batches` was read since the last `on_epoch_end`.
        self._looking = False  # Whether this epoch may be only a look.
        self._shuffle_state: Any = None  # State of Python's `random` when `num_batches` was read for a coming pass.
        self._forget_pass()
        self._loaded: dict[str, Any] | None = None  # The place where the next pass begins.
        self._iteration: dict[str, Any] | None = None  # The place of an iteration outside of Keras that is under way.

    def __len__(self) -> int:
        raise NotImplementedError

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        """The values that a state must agree with."""
        raise NotImplementedError

    def _place(self, over: bool) -> dict[str, Any]:
        """Return the place apart from the number of the next batch: after the epoch's end if the epoch is `over`."""
        return {}

    def _go_to(self, place: dict[str, Any]) -> None:
        """Go to the place of a state. Raise ValueError for a place that does not exist."""

    def _end_epoch(self) -> None:
        """Settle the order of the next epoch."""

    def _drop(self) -> None:
        """Forget the batches made ahead."""

    def _renew(self) -> None:
        """Forget all that was made if something that it depends on has changed."""

    def _pass_began(self) -> None:
        """Called when a pass has begun."""

    def _batch_counted(self) -> None:
        """Called when a delivered batch of the pass has been counted."""

    def _pass_settled(self) -> None:
        """Called when the pass has proved to be no look."""

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the data set, to the batch: small, for JSON, in microseconds except for the first.

        It counts the batches that were handed out. Between epochs of `fit` it is always known; within an epoch, if
        Keras asks for batches as it needs them and by rising numbers: with PyTorch, and with JAX on the CPU, under
        `fit(shuffle=False)`. After the last batch of an epoch it is the state of the next one, the `initial_epoch` of a
        `fit` that goes on there.

        Raises:
            RuntimeError: nobody can tell the place, or the coming batches depend on a random generator without a seed.
        """
        with self.lock:
            if self._looking and self._taken:
                self._settle()  # While Keras looks, no program can ask.
            place = self._loaded or self._iteration
            if place is None:
                if (obstacle := self._obstacle()) is not None:
                    raise RuntimeError(obstacle)
                over = 0 < self._count == self._taken
                place = {"batch": 0 if over else self._offset + self._taken, **self._place(over)}
            self._renew()
            return {"version": checkpoint.VERSION, **place, **self._identity}

    def _obstacle(self) -> str | None:
        """Return the reason why nobody can tell how far the pass has come, or None."""
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
        """Go on where `state_dict()` was. Call it before `fit`, or in a callback's `on_train_begin`.

        The first epoch of `fit` then has the remaining batches, and later epochs have all. Keras reads the length of an
        epoch once, so for the first it warns that the "input ran out of data", and goes on. With `steps_per_epoch`,
        too, the remaining batches end an epoch early.

        Args:
            state: A state of a data set with the same source, batch size, seed and options.

        Raises:
            ValueError: the state is of another data set, with a list of the differences.
        """
        with self.lock:
            self._renew()
            checkpoint.check(state, self._identity)
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
        """Number of batches in an epoch; for Keras at the beginning of a pass, the number left."""
        self._measured, self._shuffle_state = True, random.getstate()
        return len(self) if self._user is None or self._taken else self._left()

    def _left(self) -> int:
        """Return the number of batches in the next pass."""
        return len(self) - (self._loaded["batch"] if self._loaded else 0)

    def on_epoch_begin(self) -> None:
        """Hand out the backend's arrays from now on. Called by Keras.

        Raises:
            RuntimeError: a `fit`, `evaluate` or `predict` in another thread is using this data set.
        """
        here, user = threading.current_thread(), self._user
        if user is not None and user is not here and user.is_alive():
            raise RuntimeError(
                f"this data set is being consumed by fit, evaluate or predict in thread {user.name!r}: make one for "
                "each of them"
            )
        self._user, self._looking = here, self._measured

    def on_epoch_end(self) -> None:
        """Hand out NumPy arrays again, and settle the next epoch. Called by Keras."""
        with self.lock:
            # Before its first epoch, and after a look, Keras reads num_batches and calls this.
            first = self._shuffle_state is not None
            if first or self._taken >= self._count:  # With `steps_per_epoch` a pass may go on.
                self._forget_pass()
            self._user, self._measured, self._looking = None, False, False
            if first and self._loaded is not None:
                self._go_to(self._loaded)
            else:
                self._loaded = None
                self._end_epoch()

    def _forget_pass(self) -> None:
        self._counting = False  # Whether the batches of a pass are counted.
        self._by_keras = False  # Whether the pass is Keras'.
        self._in_order = True  # Whether its batches were asked for by rising numbers.
        self._offset = 0  # Number of the pass's first batch.
        self._count = 0  # Number of batches in the pass.
        self._taken = 0  # Number of them that were delivered.

    def _begin_pass(self, counting: bool) -> None:
        """Begin a pass. Keras and iterations count batches; other programs may ask for any numbers."""
        self._forget_pass()
        self._counting = counting or self._as_keras
        self._by_keras, self._shuffle_state = self._user is not None, None
        self._offset = self._loaded["batch"] if self._counting and self._loaded else 0
        self._count = len(self) - self._offset
        self._pass_began()

    def _counted(self, number: int) -> None:
        """Count a batch that was delivered."""
        self._in_order = self._in_order and number == self._offset + self._taken
        self._taken += 1
        self._counting = self._taken < self._count
        # `predict` begins as a look does, and so does an epoch before which a program reads `num_batches`.
        if not self._looking or self._taken > (2 if asks_ahead() else 1):
            self._settle()
        self._batch_counted()

    def _settle(self) -> None:
        """Note that the pass is no look: the loaded place has been used."""
        self._looking, self._loaded = False, None
        self._pass_settled()
