"""Every way in which the gateway says no, as the OpenAI API would say it.

One table, so that a status, its type and its code never drift apart between places, and so that
metrics and audit rows count by a closed set of codes. Messages name fields, limits and regions;
never a text that a caller or a config wrote.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus

INVALID, AUTHENTICATION, PERMISSION = (
    "invalid_request_error",
    "authentication_error",
    "permission_error",
)
RATE, SERVER = "rate_limit_error", "server_error"

CODES: dict[str, tuple[int, str]] = {
    # Who asks.
    "invalid_api_key": (401, AUTHENTICATION),
    "invalid_token": (401, AUTHENTICATION),
    "tenant_suspended": (403, PERMISSION),
    "region_not_allowed": (403, PERMISSION),
    "credentials_stale": (503, SERVER),
    # What is asked.
    "unknown_url": (404, INVALID),
    "method_not_allowed": (405, INVALID),
    "unsupported_media_type": (415, INVALID),
    "request_too_large": (413, INVALID),
    "headers_too_large": (431, INVALID),
    "request_timeout": (408, INVALID),
    "invalid_json": (400, INVALID),
    "invalid_value": (400, INVALID),
    "unknown_parameter": (400, INVALID),
    "unsupported_parameter": (400, INVALID),
    "role_not_allowed": (400, INVALID),
    "control_token": (400, INVALID),
    "messages_not_expressible": (400, INVALID),
    "model_not_found": (404, INVALID),
    "prompt_too_long": (400, INVALID),
    # How much.
    "rate_limit_exceeded": (429, RATE),
    "too_many_requests_at_once": (429, RATE),
    # Under which config.
    "config_not_accepted": (403, PERMISSION),
    "config_not_yet_effective": (403, PERMISSION),
    "config_expired": (403, PERMISSION),
    "config_missing": (503, SERVER),
    "config_ambiguous": (503, SERVER),
    "config_broken": (503, SERVER),
    "config_stale": (503, SERVER),
    "config_unservable": (503, SERVER),
    # By which model.
    "model_unavailable": (503, SERVER),
    "overloaded": (503, SERVER),
    "audit_unavailable": (503, SERVER),
    "upstream_rejected": (400, INVALID),
    "upstream_error": (502, SERVER),
    "upstream_timeout": (504, SERVER),
    "internal_error": (500, SERVER),
}
"""Status and type of each code."""


@dataclass(eq=False)
class Refusal(Exception):
    """A request that gets no answer, or no more of it.

    Attributes:
        code: One of :data:`CODES`.
        message: For the caller: what is wrong, and what to do.
        param: The field of the request that it is about.
        retry_after: Seconds after which another attempt makes sense.
    """

    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None

    @property
    def status(self) -> HTTPStatus:
        """The HTTP status."""
        return HTTPStatus(CODES[self.code][0])

    def body(self) -> bytes:
        """The error object of the OpenAI API, as JSON."""
        error = {
            "message": self.message,
            "type": CODES[self.code][1],
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers beside content type and length."""
        if self.retry_after is None:
            return []
        return [(b"retry-after", str(max(1, round(self.retry_after))).encode())]
