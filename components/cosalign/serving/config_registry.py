"""Which config applies to a region now; where that is not certain, none does.

The registry keeps what its source last said, each config with the moment when it was last seen
good. Dates are looked at with each request, so that a config ends on its second and not with the
next reading. What has not been confirmed for ``max_stale_seconds`` is not used any more.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from cosalign.domain.errors import CosalignError
from cosalign.runtime.logs import get_logger
from cosalign.serving.config_sources import ConfigSource, Reading, ServableConfig
from cosalign.serving.refusals import Refusal

_log = get_logger(__name__)
_RETRY_SECONDS = 30.0


@dataclass(frozen=True)
class _Held:
    config: ServableConfig
    confirmed: float


class ConfigRegistry:
    """The configs in use.

    Args:
        source: Where they come from.
        max_stale_seconds: How long a config is used without being confirmed.
        clock: A steady clock.
        calendar: Seconds since 1970.
    """

    def __init__(
        self,
        source: ConfigSource,
        max_stale_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._max_stale = max_stale_seconds
        self._clock = clock
        self._calendar = calendar
        self._held: dict[str, _Held] = {}
        self._by_region: dict[str, list[_Held]] = {}
        self._reading = Reading()
        self._confirmed: float | None = None

    @property
    def ready(self) -> bool:
        """Whether the source has been read, not too long ago."""
        return self.age_seconds <= self._max_stale

    @property
    def age_seconds(self) -> float:
        """Since the source was last read; endless where it never was."""
        return float("inf") if self._confirmed is None else self._clock() - self._confirmed

    @property
    def configs(self) -> list[ServableConfig]:
        """All that are held."""
        return [held.config for held in self._held.values()]

    async def refresh(self) -> None:
        """Reads the source; where that fails, what is held stays as it is and grows older."""
        try:
            reading = await asyncio.to_thread(self._source.read)
        except (CosalignError, OSError) as problem:
            _log.error("configs not read", reason=str(problem), age_seconds=self.age_seconds)
            return
        self.take(reading)

    def take(self, reading: Reading) -> None:
        """Replaces what is held by a reading."""
        now = self._clock()
        held = {key: _Held(config, now) for key, config in reading.servable.items()}
        for key in reading.broken:
            before = self._held.get(key)
            if before is not None and now - before.confirmed <= self._max_stale:
                held[key] = before
        self._report(reading)
        by_region = defaultdict(list)
        for one in held.values():
            by_region[one.config.region].append(one)
        self._held, self._by_region, self._reading = held, dict(by_region), reading
        self._confirmed = now

    def find(self, region: str, name: str | None = None) -> ServableConfig:
        """The one config of a region that is in force.

        Args:
            region: The region.
            name: Its name, where the tenant goes by one of several.

        Raises:
            Refusal: There is none, or more than one.
        """
        steady, today = self._clock(), self._calendar()
        usable, codes = [], []
        for held in self._by_region.get(region, ()):
            if name is not None and held.config.name != name:
                continue
            stale = steady - held.confirmed > self._max_stale
            code = "config_stale" if stale else held.config.refusal_at(today)
            if code is None:
                usable.append(held.config)
            else:
                codes.append(code)
        if len(usable) == 1:
            return usable[0]
        code = "config_ambiguous" if usable else self._why_none(region, codes)
        raise Refusal(code, _MESSAGES[code].format(region=region), retry_after=_RETRY_SECONDS)

    def _why_none(self, region: str, codes: list[str]) -> str:
        if not self.ready:
            return "config_stale"
        if codes:
            # Several reasons: the one nearest to being served.
            return min(codes, key=list(_MESSAGES).index)
        if region in self._reading.broken.values():
            return "config_broken"
        if region in self._reading.refused.values():
            return "config_not_accepted"
        return "config_missing"

    def _report(self, reading: Reading) -> None:
        for key, reason in reading.reasons.items():
            if self._reading.reasons.get(key) != reason:
                _log.warning("config not usable", config=key, reason=reason)
        before = {(c.name, c.digest) for c in self.configs}
        for config in reading.servable.values():
            if (config.name, config.digest) not in before:
                _log.info(
                    "config in use", config=config.name, region=config.region, digest=config.digest
                )


_MESSAGES = {
    "config_stale": "the safety config of region {region!r} could not be confirmed for too long; "
    "nothing is answered until it is",
    "config_not_yet_effective": "the safety config of region {region!r} is not in force yet",
    "config_expired": "the safety config of region {region!r} has expired",
    "config_broken": "the safety config of region {region!r} cannot be used as it stands",
    "config_not_accepted": "the safety config of region {region!r} is not accepted",
    "config_missing": "region {region!r} has no safety config; nothing is answered without one",
    "config_ambiguous": "region {region!r} has several safety configs in force at once; the "
    "provider must say which one applies",
}
