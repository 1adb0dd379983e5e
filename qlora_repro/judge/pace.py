"""How fast a server may be asked: requests and tokens per minute, and pauses that it asks for."""

import email.utils
from collections.abc import Mapping

MINUTE = 60.0


class Pace:
    """Spreads requests evenly, so that no minute holds more than the limits."""

    def __init__(self, *, requests: int | None, tokens: int | None) -> None:
        self._per_request = MINUTE / requests if requests else 0.0  # s
        self._per_token = MINUTE / tokens if tokens else 0.0
        self._next = 0.0  # the earliest moment of the next request, on the monotonic clock
        self._paused_until = 0.0

    def reserve(self, tokens: int, *, now: float) -> float:
        """Take the next free place for a request of so many tokens; return the s until then.

        >>> pace = Pace(requests=60, tokens=None)
        >>> [pace.reserve(100, now=50.0) for _ in range(3)]
        [0.0, 1.0, 2.0]
        >>> pace = Pace(requests=None, tokens=6000)
        >>> [pace.reserve(100, now=50.0) for _ in range(3)]
        [0.0, 1.0, 2.0]
        """
        place = max(now, self._next)
        self._next = place + max(self._per_request, self._per_token * tokens)
        return place - now

    def pause(self, seconds: float, *, now: float) -> None:
        """Let nobody ask for a while: a server that is overrun means all of us."""
        self._paused_until = max(self._paused_until, now + seconds)

    def paused(self, *, now: float) -> float:
        """Return the s that everybody has to wait still; not above 0 when there is no pause."""
        return self._paused_until - now


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the seconds that a server asks to wait, from any of the forms of its header.

    >>> retry_after({"retry-after-ms": "250"}, now=0.0), retry_after({"retry-after": "3"}, now=0.0)
    (0.25, 3.0)
    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:09 GMT"}, now=4.0)
    5.0
    >>> retry_after({"retry-after": "soon"}, now=0.0) is None
    True
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers.get(name, "")) * unit)
        except ValueError:
            continue
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - now)
