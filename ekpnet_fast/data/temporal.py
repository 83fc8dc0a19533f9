"""Splits by time: of all positives at one moment, or of each user's last ones."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.errors import ConfigError, DataError

__all__ = [
    "Cut",
    "TimeSplit",
    "at_a_moment",
    "first_times",
    "is_moment",
    "of_each_user",
    "shown_time",
]

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Cut: TypeAlias = float | str | None
"""Where test begins: a share of the positives, a time, or a date; None for a tenth of them."""

SHARE = 10  # one in so many positives goes to test, and one to validation
# Unix seconds from 1980 to 2100, and the same in milliseconds, are shown as dates.
_SECONDS = (315_532_800.0, 4_102_444_800.0)


class TimeSplit(NamedTuple):
    """Split by time.

    Attributes:
        part: [n] int8 of each positive: 0 train, 1 validation, 2 test.
        valid_from, test_from: the moments from which on positives are in each; None where every
            user has moments of their own.
    """

    part: NDArray[np.int8]
    valid_from: float | None
    test_from: float | None


def first_times(keys: Int64, times: Float64) -> tuple[Int64, Float64]:
    """Distinct keys, rising, and the earliest time of each."""
    order = np.lexsort((times, keys))
    keys, times = keys[order], times[order]
    first = np.diff(keys, prepend=keys[:1] - 1) != 0
    return keys[first], times[first]


def at_a_moment(name: str, times: Float64, cut: Cut = None) -> TimeSplit:
    """Split [n] positives at two moments: what comes last is test, a tenth before it validation.

    All positives of one time are on the same side.

    Args:
        name: of the data set, for messages.
        times: [n] of the positives.
        cut: where test begins: the share of positives that is test, between 0 and 1; a time; or a
            date by ISO 8601, of UTC where it says no zone. A tenth by default.

    Raises:
        ConfigError: a cut that is no number above 0, nor a date.
        DataError: a part is empty, because too many positives have the same time, or lie on one
            side of the cut.
    """
    rising, tenth = np.sort(times), max(len(times) // SHARE, 1)
    moment, late = _cut_at(cut), tenth
    if moment is not None and moment < 1:
        late, moment = max(int(moment * len(times)), 1), None
    if moment is not None:
        late = len(times) - int(np.searchsorted(rising, moment))
    # Without enough positives the moments are the first one's, and a part is empty.
    moments = [float(rising[max(len(times) - n, 0)]) for n in (late + tenth, max(late, 1))]
    if moment is not None:
        moments[1] = moment
    part = np.searchsorted(moments, times, side="right").astype(np.int8)
    for number, word in enumerate(("train", "validation", "test")):
        if not (part == number).any():
            raise DataError(
                f"{name}: found no positive in {word}, expected some: the {len(times)} positives"
                f" have {len(np.unique(times))} different times, from {shown_time(rising[0])} to"
                f" {shown_time(rising[-1])}"
            )
    return TimeSplit(part, *moments)


def _cut_at(cut: Cut) -> float | None:
    """Number that a cut says; Unix seconds of a date."""
    if cut is None:
        return None
    try:
        if isinstance(cut, str):
            moment = datetime.fromisoformat(cut.strip().replace("Z", "+00:00"))
            zoned = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
            return zoned.timestamp()
        if not isinstance(cut, bool) and 0 < cut < np.inf:
            return float(cut)
    except ValueError:
        pass
    raise ConfigError(
        f"cut: found {cut!r}, expected a share between 0 and 1, a time, or a date by ISO 8601"
    )


def of_each_user(users: Int64, times: Float64, train: Int64, valid: Int64) -> TimeSplit:
    """Split [n] positives so that each user's last ones are test, and those before validation.

    Args:
        users: [n], rising.
        times: [n]; of equal times the first row is earlier.
        train, valid: [U] how many of each user's are train, and validation.
    """
    order = np.lexsort((times, users))
    totals = np.bincount(users, minlength=len(train))
    position = np.arange(len(users)) - np.repeat(np.cumsum(totals) - totals, totals)
    part = np.zeros(len(users), dtype=np.int8)
    ends = train[users], (train + valid)[users]
    part[order] = (position >= ends[0]).astype(np.int8) + (position >= ends[1])
    return TimeSplit(part, None, None)


def is_moment(time: float) -> bool:
    """Whether a number looks like Unix seconds or milliseconds of the years 1980 to 2099."""
    return _seconds(time) is not None


def shown_time(time: float) -> str:
    """Text of a time: a date where it looks like Unix seconds or milliseconds, else the number."""
    seconds = _seconds(time)
    if seconds is None:
        return f"{time:.15g}"
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _seconds(time: float) -> float | None:
    """Unix seconds that a number looks like, which may be milliseconds; None for other numbers."""
    units = (time / unit for unit in (1, 1000))
    return next((x for x in units if _SECONDS[0] <= x < _SECONDS[1]), None)
