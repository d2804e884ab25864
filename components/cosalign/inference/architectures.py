"""Which architectures are accepted: a list as data, in one place, and the refusal of all others.

A model's ``config.json`` says which code will run it. Only code that ships with transformers and
vLLM is run here, and of that only what has been looked at: a family may render its chat, scale its
logits or pack its attention in a way that training does not know, and would then learn something
else in silence.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import resources
from typing import Any

import yaml

from cosalign.domain.errors import ModelError, nearest

FILE = "architectures.yaml"


def _listed() -> dict[str, list[str]]:
    source = resources.files("cosalign.inference") / FILE
    listed: dict[str, list[str]] = yaml.safe_load(source.read_text("utf-8"))
    return listed


_LISTED = _listed()
ARCHITECTURES = frozenset(_LISTED["generators"])
ENCODERS = frozenset(_LISTED["encoders"])
"""Architectures of sentence encoders; they embed texts and generate nothing."""


def check_architecture(config: dict[str, Any], name: str, accepted: Collection[str]) -> None:
    """Refuses a model whose architecture is not on the list.

    Args:
        config: Its ``config.json``.
        name: What to call it in messages.
        accepted: The list.

    Raises:
        ModelError: It names none, or one that is not accepted; the message says what to do.
    """
    found = config.get("architectures") or []
    if not found:
        raise ModelError(f"model {name}: config.json names no architecture; save it again")
    for architecture in found:
        if architecture not in accepted:
            raise ModelError(
                f"model {name} has architecture {architecture}, which is not supported"
                f"{nearest(str(architecture), accepted)}. Use a model of a listed one; "
                f"cosalign/inference/{FILE} holds the list and says how one gets onto it"
            )
