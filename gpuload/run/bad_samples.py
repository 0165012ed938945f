"""Bad samples of a source: each is counted, and logged once."""

from __future__ import annotations

import datetime
import json
import logging
import threading
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from gpuload.core.errors import BadSample, TooManyErrors
from gpuload.options import Errors

log = logging.getLogger("gpuload")

_FATE = {"skip": "its batch is shorter", "replace": "another one takes its place"}


class BadSamples:
    """The bad samples found so far. Any number of threads may add to it."""

    def __init__(self, options: Errors, size: int):
        """Take the number of samples in the source. Raise OSError if the log cannot be written."""
        self.options = options
        self.found: list[BadSample] = []
        """Each bad sample once, in the order in which they were found."""
        self._size = size
        self._flags: NDArray[np.bool_] | None = None  # [size], once there is one.
        self._lock = threading.Lock()
        if options.log is not None:
            with open(options.log, "a"):
                pass

    def among(self, indices: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Return [B], whether each of these samples is known to be bad; None if none is."""
        if self._flags is None:
            return None
        flags: NDArray[np.bool_] = self._flags[indices]
        return flags if flags.any() else None

    def add(self, samples: list[BadSample]) -> None:
        """Add samples, and log those that are new. Raise TooManyErrors if there are more than `max_errors` now."""
        with self._lock:
            if self._flags is None:
                self._flags = np.zeros(self._size, bool)
            for sample in samples:
                if not self._flags[sample.index]:
                    self._flags[sample.index] = True
                    self.found.append(sample)
                    self._tell(sample)
        limit = self.options.max_errors
        most = limit * self._size if isinstance(limit, float) else limit
        if most is not None and len(self.found) > most:
            raise TooManyErrors(
                f"max_errors={limit!r} allows {most:g} bad samples of {self._size}, but {len(self.found)} were found, "
                f"the last of them {samples[-1].path!r}: {samples[-1].reason}. Repair or remove those in .errors, or "
                f"raise max_errors"
            )
        if self.options.on_error != "raise" and len(self.found) == self._size:
            raise TooManyErrors(f"none of the {self._size} samples can be read: see .errors for the reason of each")

    def _tell(self, sample: BadSample) -> None:
        options, action = self.options, self.options.on_error
        if action != "raise":
            log.warning("cannot read %r (sample %d): %s; %s", sample.path, sample.index, sample.reason, _FATE[action])
        if options.log is None:
            return
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        try:
            # One write to a file opened to append: processes that share the file do not mix their lines.
            with open(options.log, "a") as file:
                file.write(json.dumps({"time": now, **asdict(sample), "on_error": action}) + "\n")
        except OSError as error:
            # Training must not end because of its log. `found` has the sample.
            log.warning("log=%r of errors cannot be written: %s", options.log, error)
