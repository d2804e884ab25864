"""Structured logs that carry ids and never texts.

The prompts that this project handles are hateful and dangerous, and logs are read, shipped and kept
by many. So a log line is an event name and named values; names that would carry a text are refused
at once, in tests and in production alike, and long values are cut.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

FORBIDDEN = frozenset(
    {"text", "texts", "prompt", "prompts", "response", "responses", "message", "messages",
     "content", "system", "answer", "completion", "chosen", "rejected"}
)  # fmt: skip
MAX_VALUE = 500


class TextInLogError(AssertionError):
    """A log call tried to carry a text; log its id."""


class _Stderr:
    """Standard error as it is at each write: whoever redirects it later is still served."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _refuse_texts(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    named = FORBIDDEN.intersection(event)
    # A count under such a name ("prompts": 60) is what we want to see.
    texts = [name for name in named if not isinstance(event[name], int | float | None)]
    if texts:
        raise TextInLogError(f"log field {texts[0]!r} may carry a text; log the id instead")
    return event


def _cut_long_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str) and len(value) > MAX_VALUE:
            event[name] = value[:MAX_VALUE] + "..."
    return event


def configure_logs(json_lines: bool | None = None, quiet: bool = False) -> None:
    """Sends logs to standard error: JSON lines in pods, plain lines on a terminal.

    Args:
        json_lines: Force one form; by default ``COSALIGN_LOG=json|text``, else what standard error
            is.
        quiet: Leave out what is no warning; for processes that do what another one reports.
    """
    if json_lines is None:
        wanted = os.environ.get("COSALIGN_LOG", "text" if sys.stderr.isatty() else "json")
        json_lines = wanted == "json"
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json_lines
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _refuse_texts,
            _cut_long_values,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.WARNING if quiet else logging.INFO
        ),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> Any:
    """A logger whose lines name their module."""
    return structlog.get_logger(module=name)
