"""Notices to the outside: one signed webhook a tick, with all that changed in it.

The form is that of Standard Webhooks (standardwebhooks.com), so receivers verify it with a library:
``webhook-id``, ``webhook-timestamp``, and ``webhook-signature: v1,`` with the HMAC-SHA256 of
``ID.TIMESTAMP.BODY`` in base64. docs/retraining.md describes the body. It holds names, digests,
reasons and scores, and never the text of a policy or a prompt.

A notice is stored before it is sent and deleted when it was taken, so one that nobody took is sent
again by a later tick: at least once, with the same id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cosalign.domain.errors import ConfigError, TransientError
from cosalign.domain.fingerprint import Json, content_sha256
from cosalign.retraining.config_standing import ConfigStanding
from cosalign.retraining.status_file import RunStanding, Status
from cosalign.runtime.logs import get_logger
from cosalign.store.storage import Storage

log = get_logger(__name__)
_KEPT = 100
"""Notices kept that nobody took; older ones are dropped."""
_SECONDS = 10.0
_ATTEMPTS = 4
_PREFIX = "whsec_"

Send = Callable[[str, bytes, Mapping[str, str]], int]
"""Posts a body with headers to an address, and gives the HTTP status."""


@dataclass(frozen=True)
class Webhook:
    """Where notices go.

    Attributes:
        url: The address.
        secret: ``whsec_`` and the key in base64.
        send: Posts; by httpx where ``None``.
    """

    url: str
    secret: str
    send: Send | None = None

    @property
    def key(self) -> bytes:
        """The key of the signature.

        Raises:
            ConfigError: The secret is none.
        """
        try:
            found = base64.b64decode(self.secret.strip().removeprefix(_PREFIX), validate=True)
        except (ValueError, binascii.Error):
            found = b""
        least = 16
        if not self.secret.strip().startswith(_PREFIX) or len(found) < least:
            raise ConfigError(
                f"the webhook's secret is not {_PREFIX} and at least {least} bytes in base64; make "
                f'one with: echo "{_PREFIX}$(openssl rand -base64 32)"'
            )
        return found


def changes_of(before: Status | None, after: Status) -> list[dict[str, Json]]:
    """What changed between two statuses, for those outside: conditions of configs, and runs."""
    old = before.by_key if before else {}
    found: list[dict[str, Json]] = []
    for config in after.configs:
        earlier = old.get(config.key)
        found += _config_changes(earlier, config)
    gone = sorted(set(old) - set(after.by_key))
    found += [{"type": "config.withdrawn", "config": _config(old[key])} for key in gone]
    for lane in ("evaluate", "train"):
        run: RunStanding | None = getattr(after, lane)
        known: RunStanding | None = getattr(before, lane) if before else None
        if run is not None and (known is None or (known.run, known.phase) != (run.run, run.phase)):
            found.append({"type": f"run.{run.phase}", "run": _run(run)})
    return found


_TOLD = {
    "Accepted": "config.accepted",
    "Refused": "config.refused",
    "Evaluated": "config.evaluated",
    "Promoted": "config.promoted",
}


def _config_changes(before: ConfigStanding | None, after: ConfigStanding) -> list[dict[str, Json]]:
    found: list[dict[str, Json]] = []
    for kind, told in _TOLD.items():
        now = after.condition(kind)
        then = before.condition(kind) if before else None
        new = then is None or (then.status, then.reason) != (now.status, now.reason)
        other = before is not None and before.digest != after.digest
        if now.status == "True" and (new or other):
            found.append({"type": told, "config": _config(after), "reason": now.reason})
    return found


def _config(config: ConfigStanding) -> Json:
    return {
        "name": config.name, "namespace": config.namespace, "region": config.region,
        "digest": config.digest, "phase": config.phase, "score": config.score,
        "model": config.model,
    }  # fmt: skip


def _run(run: RunStanding) -> Json:
    return {
        "name": run.run, "id": run.run_id, "kind": run.kind, "ending": run.ending,
        "passed": run.passed, "model": run.model, "configs": run.configs, "attempt": run.attempt,
    }  # fmt: skip


class Outbox:
    """Notices on their way.

    Args:
        storage: The storage root.
        name: As of the model that is reconciled.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self.name = name
        self.folder = f"reconcile/{name}/notices"

    def put(self, changes: Sequence[Mapping[str, Json]], at: str) -> None:
        """Stores a notice to be sent.

        Args:
            changes: What it tells of.
            at: When, ISO 8601 in UTC.
        """
        plain: list[Any] = [dict(change) for change in changes]
        body = {
            "type": "cosalign.reconciled", "timestamp": at,
            "data": {"name": self.name, "changes": plain},
        }  # fmt: skip
        data = json.dumps(body, sort_keys=True, ensure_ascii=False).encode()
        stamp = at.replace(":", "").replace("+", "p")
        self.storage.write_bytes(f"{self.folder}/{stamp}-{content_sha256(data)[:16]}.json", data)

    def pending(self) -> list[str]:
        """Paths of the notices that nobody took, oldest first."""
        return [stat.path for stat in self.storage.list(self.folder)]

    def send(self, webhook: Webhook) -> int:
        """Sends all that is there; gives how many are left.

        Raises:
            ConfigError: The secret is none.
        """
        key = webhook.key
        paths = self.pending()
        for path in paths[:-_KEPT]:
            log.warning("notice_dropped", notice=path.rpartition("/")[2])
            self.storage.delete(path)
        for path in paths[-_KEPT:]:
            try:
                _deliver(webhook, key, path, self.storage.read_bytes(path))
            except TransientError as problem:
                log.warning("notice_not_taken", notice=path.rpartition("/")[2], why=str(problem))
                break
            self.storage.delete(path)
        return len(self.pending())


def signed_headers(key: bytes, notice: str, moment: datetime, body: bytes) -> dict[str, str]:
    """The headers of a notice.

    Args:
        key: The key of the signature.
        notice: The notice's id.
        moment: When it is sent.
        body: What is sent.
    """
    stamp = str(int(moment.timestamp()))
    signed = f"{notice}.{stamp}.".encode() + body
    mac = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "webhook-id": notice,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{mac}",
    }


def _deliver(webhook: Webhook, key: bytes, path: str, body: bytes) -> None:
    from tenacity import (
        Retrying,
        retry_if_exception_type,
        stop_after_attempt,
        wait_random_exponential,
    )

    notice = f"msg_{path.rpartition('-')[2].removesuffix('.json')}"
    send = webhook.send or _post

    def once() -> None:
        status = send(webhook.url, body, signed_headers(key, notice, datetime.now(UTC), body))
        if not 200 <= status < 300:  # noqa: PLR2004  what HTTP calls success
            raise TransientError(f"the webhook answers {status}")

    Retrying(
        retry=retry_if_exception_type(TransientError), reraise=True,
        wait=wait_random_exponential(multiplier=0.2, max=5.0), stop=stop_after_attempt(_ATTEMPTS),
    )(once)  # fmt: skip


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    import httpx

    with suppress(httpx.HTTPError):
        # A redirect could carry the notice anywhere.
        answer = httpx.post(
            url, content=body, headers=dict(headers), timeout=_SECONDS, follow_redirects=False
        )
        return answer.status_code
    raise TransientError("the webhook does not answer")
