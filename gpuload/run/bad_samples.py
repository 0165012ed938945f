"""The samples that could not be read: each told once, counted, and written down."""

from __future__ import annotations

import datetime
import json
import logging
import threading

import numpy as np
from numpy.typing import NDArray

from gpuload.core.errors import BadSample, ErrorPolicy, TooManyErrors

log = logging.getLogger("gpuload")

_FATE = {"skip": "its batch is shorter", "replace": "another one takes its place"}


class BadSamples:
    """The bad samples of one source, as they are found. Any number of threads may add to it."""

    def __init__(self, policy: ErrorPolicy, size: int):
        """`size`: samples in the source. Raises OSError where `errors_log` cannot be written."""
        self.policy = policy
        self.found: list[BadSample] = []
        """Each of them once, in the order in which they were found."""
        self._size = size
        self._flags: NDArray[np.bool_] | None = None  # [size], once there is one.
        self._lock = threading.Lock()
        if policy.errors_log is not None:
            with open(policy.errors_log, "a"):
                pass

    def among(self, indices: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """[B] which of these samples are known to be bad; None: none is."""
        if self._flags is None:
            return None
        flags: NDArray[np.bool_] = self._flags[indices]
        return flags if flags.any() else None

    def add(self, samples: list[BadSample]) -> None:
        """Tell those that are new. Raises TooManyErrors where there are more now than `max_errors`."""
        with self._lock:
            if self._flags is None:
                self._flags = np.zeros(self._size, bool)
            for sample in samples:
                if not self._flags[sample.index]:
                    self._flags[sample.index] = True
                    self.found.append(sample)
                    self._tell(sample)
        limit, policy = self.policy.max_errors, self.policy
        most = limit * self._size if isinstance(limit, float) else limit
        if most is not None and len(self.found) > most:
            raise TooManyErrors(
                f"max_errors={limit!r} allows {most:g} bad samples of {self._size}, but {len(self.found)} were found, "
                f"the last of them {samples[-1].path!r}: {samples[-1].reason}. Repair or remove those in .errors, or "
                f"raise max_errors"
            )
        if policy.on_error != "raise" and len(self.found) == self._size:
            raise TooManyErrors(f"none of the {self._size} samples can be read: see .errors for the reason of each")

    def _tell(self, sample: BadSample) -> None:
        policy = self.policy
        if policy.on_error != "raise":
            log.warning(
                "cannot read %r (sample %d): %s; %s", sample.path, sample.index, sample.reason, _FATE[policy.on_error]
            )
        if policy.errors_log is None:
            return
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        line = {"time": now, "index": sample.index, "path": sample.path, "reason": sample.reason}
        try:
            # One write to a file opened to append: processes that share it do not mix their lines.
            with open(policy.errors_log, "a") as file:
                file.write(json.dumps({**line, "on_error": policy.on_error}) + "\n")
        except OSError as error:
            # The training must not end for its log. `found` has the sample.
            log.warning("errors_log=%r cannot be written: %s", policy.errors_log, error)
