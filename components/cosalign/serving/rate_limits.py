"""How much each tenant may ask for: requests and tokens by the minute, and requests at once.

Token buckets, held in this process: with several replicas each allows that much. A shared store
would make the bound exact and add a round trip and a dependency to every request; the bound is
there to keep one tenant from crowding out the others, for which the factor does not matter.

Tokens of a prompt are taken when a model server is asked. Those of its answer are only known
afterwards, so the token bucket may go below zero and is refused until it has recovered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cosalign.serving.refusals import Refusal
from cosalign.serving.tenants import Limits, TenantEntry

MINUTE = 60.0
BURST_SHARE = 0.1
Clock = Callable[[], float]


@dataclass
class _Bucket:
    """Fills at a steady rate; ``at`` is when it was last looked at."""

    level: float
    at: float

    def look(self, per_minute: float, burst: float, now: float) -> float:
        """What is in it, after what came since."""
        self.level = min(burst, self.level + (now - self.at) * per_minute / MINUTE)
        self.at = now
        return self.level


@dataclass
class _Usage:
    """A tenant's."""

    requests: _Bucket
    tokens: _Bucket
    at_once: int = 0


class RateLimits:
    """The usage of all tenants.

    Args:
        clock: A steady clock.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._usage: dict[str, _Usage] = {}

    @contextmanager
    def request(self, tenant: TenantEntry) -> Iterator[None]:
        """Counts a request for as long as it lasts.

        Raises:
            Refusal: The tenant has used up what it may use now.
        """
        usage, limits, now = self._of(tenant), tenant.limits, self._clock()
        requests = usage.requests.look(limits.requests_per_minute, request_burst(limits), now)
        tokens = usage.tokens.look(limits.tokens_per_minute, limits.tokens_per_minute, now)
        if usage.at_once >= limits.at_once:
            raise Refusal(
                "too_many_requests_at_once",
                f"at most {limits.at_once} requests at a time are answered for this tenant",
                retry_after=1,
            )
        if requests < 1:
            raise _limited("requests", limits.requests_per_minute, 1 - requests)
        if tokens <= 0:
            raise _limited("tokens", limits.tokens_per_minute, 1 - tokens)
        usage.requests.level -= 1
        usage.at_once += 1
        try:
            yield
        finally:
            usage.at_once -= 1

    def spend(self, tenant: TenantEntry, tokens: int) -> None:
        """Takes tokens of a prompt or an answer."""
        self._of(tenant).tokens.level -= tokens

    def _of(self, tenant: TenantEntry) -> _Usage:
        usage = self._usage.get(tenant.name)
        if usage is None:
            now, limits = self._clock(), tenant.limits
            usage = _Usage(
                _Bucket(request_burst(limits), now), _Bucket(limits.tokens_per_minute, now)
            )
            self._usage[tenant.name] = usage
        return usage


def request_burst(limits: Limits) -> float:
    """Requests that may come at once after a pause."""
    return max(1.0, limits.requests_per_minute * BURST_SHARE)


def _limited(what: str, per_minute: int, lacking: float) -> Refusal:
    return Refusal(
        "rate_limit_exceeded",
        f"this tenant may use {per_minute} {what} a minute; slow down",
        retry_after=lacking * MINUTE / per_minute,
    )
