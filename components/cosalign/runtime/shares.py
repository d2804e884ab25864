"""Shares: how the paid work of one step is spread over pods.

A share is a part of the prompts, by content: whoever is share 2 of 4 finds the same prompts,
whatever was stored before and in whichever order the others run. Steps work prompt by prompt, so a
share runs the step's own code over its prompts, for the sake of the ledgers alone; what it computes
beside is let fall. The step itself then reads everything from the ledgers (law 3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cosalign.domain.errors import ConfigError
from cosalign.domain.fingerprint import seed_of

_FORM = re.compile(r"(\d{1,4})/(\d{1,4})")


@dataclass(frozen=True)
class Share:
    """One of ``count`` equal parts of the prompts.

    Attributes:
        index: Which one, from 0.
        count: How many there are.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, prompt_id: str) -> bool:
        """Whether a prompt is in this share; each prompt is in exactly one."""
        return seed_of("share", prompt_id) % self.count == self.index


def parse_share(text: str) -> Share:
    """Reads ``INDEX/COUNT``, the index from 0.

    Raises:
        ConfigError: It is no share.
    """
    match = _FORM.fullmatch(text)
    share = Share(int(match[1]), int(match[2])) if match else None
    if share is None or share.index >= share.count:
        raise ConfigError(f"share {text!r}: write INDEX/COUNT with INDEX from 0, such as 0/4")
    return share


def all_shares(count: int) -> list[Share]:
    """All shares; none where the work is not spread and the step pays for everything itself.

    Raises:
        ConfigError: The number is not between 0 and 999.
    """
    if not 0 <= count <= 999:  # noqa: PLR2004
        raise ConfigError(f"shards={count}: give a number from 0 (not spread) to 999")
    return [Share(index, count) for index in range(count)]
