"""Ends an answer that repeats its safety config word for word.

The config stands in the prompt, and a model can be talked into repeating a prompt. What no gateway
can keep from happening inside the model, it can keep from going out: an answer is compared, letters
and digits alone, with the config that it was given under, and ended where so many in a row are the
same. It is a net for the plain case. A model that is made to translate, spell out or summarise its
config goes through it, and up to the limit's worth of text has gone out when it closes.
"""

from __future__ import annotations

import re
from functools import lru_cache

SHORTEST = 16
"""Configs with fewer letters and digits say too little to be told from an answer."""
_REST = re.compile(r"[\W_]+")


def _letters(text: str) -> str:
    return _REST.sub("", text.casefold())


@lru_cache(maxsize=512)
def _runs(config: str, limit: int) -> tuple[int, frozenset[str]]:
    """The length of a run that counts, and all runs of that length in a config."""
    letters = _letters(config)
    length = min(limit, len(letters))
    if length < SHORTEST:
        return 0, frozenset()
    return length, frozenset(letters[i : i + length] for i in range(len(letters) - length + 1))


class LeakGuard:
    """Watches one answer.

    Args:
        config: The text of its config.
        limit: Letters and digits in a row that count as a leak; 0 for never.
    """

    def __init__(self, config: str, limit: int) -> None:
        self._length, self._forbidden = _runs(config, limit)
        self._tail = ""

    def leaks(self, piece: str) -> bool:
        """Whether the answer, with this next piece, repeats its config."""
        length = self._length
        if not length:
            return False
        seen = self._tail + _letters(piece)
        self._tail = seen[-length + 1 :]
        return any(seen[i : i + length] in self._forbidden for i in range(len(seen) - length + 1))
