"""From a request's headers to a caller; nothing else in a request says who asks or where."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from cosalign.domain.errors import CosalignError
from cosalign.runtime.logs import get_logger
from cosalign.serving.api_keys import PREFIX, key_fits, key_id
from cosalign.serving.refusals import Refusal
from cosalign.serving.tenants import Caller, IssuerEntry, TenantEntry, Tenants, parse_tenants
from cosalign.serving.token_issuers import TokenChecker
from cosalign.store.storage import read_uri

LONGEST_KEY = 256
_log = get_logger(__name__)


class Authenticator:
    """Knows the tenants and whom to believe.

    A tenants' file that cannot be read or is wrong leaves the one before in force, for so long;
    then nobody is let in, since a key may have been taken back in the meantime.

    Args:
        address: The tenants' file.
        pepper: The secret that API keys are hashed under.
        tokens: Checks tokens.
        max_stale_seconds: How long the file before stays in force.
    """

    def __init__(
        self, address: str, pepper: bytes, tokens: TokenChecker, max_stale_seconds: float
    ) -> None:
        self._address = address
        self._pepper = pepper
        self._tokens = tokens
        self._max_stale = max_stale_seconds
        self._tenants: Tenants | None = None
        self._content: bytes | None = None
        self._read = 0.0

    @property
    def ready(self) -> bool:
        """Whether anybody could be let in."""
        return self._tenants is not None and time.monotonic() - self._read <= self._max_stale

    async def refresh(self) -> None:
        """Reads the file again, and issuers' keys where it is time."""
        try:
            content = await asyncio.to_thread(read_uri, self._address)
            if content != self._content:
                # Beside the event loop: a file of thousands of tenants takes seconds.
                text = content.decode("utf-8", "replace")
                self._tenants = await asyncio.to_thread(parse_tenants, text, self._address)
                self._content = content
            self._read = time.monotonic()
        except (CosalignError, OSError) as problem:
            _log.error("tenants not read", reason=str(problem))
        if self._tenants is not None:
            await self._tokens.refresh(self._tenants.issuers)

    async def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Who asks.

        Raises:
            Refusal: Nobody who is known, or a tenant that is suspended.
        """
        credential = _bearer(headers)
        tenants = self._tenants
        if tenants is None or not self.ready:
            raise Refusal(
                "credentials_stale",
                "callers cannot be checked now; try again later",
                retry_after=30,
            )
        if credential.startswith(PREFIX):
            caller = self._by_key(credential, tenants)
        else:
            caller = await self._by_token(credential, tenants)
        if caller.tenant.suspended:
            raise Refusal("tenant_suspended", "this tenant is suspended; ask your provider")
        return caller

    def _by_key(self, key: str, tenants: Tenants) -> Caller:
        known = tenants.keys.get(key_id(key)) if len(key) <= LONGEST_KEY else None
        fits = key_fits(key[:LONGEST_KEY], known.entry.hash if known else None, self._pepper)
        if known is None or not fits or known.expired():
            raise _unknown_key()
        return known.caller()

    async def _by_token(self, token: str, tenants: Tenants) -> Caller:
        if not tenants.issuers or token.count(".") != 2:  # noqa: PLR2004
            raise _unknown_key()
        issuer, claims = await self._tokens.claims(token, tenants.issuers)
        named = claims.get(issuer.tenant_claim)
        tenant = tenants.by_name.get(named) if isinstance(named, str) else None
        if tenant is None or issuer.name not in tenant.issuers:
            raise Refusal(
                "invalid_token", "this token is not accepted: its tenant is not one of its issuer's"
            )
        return Caller(tenant, _region(claims, issuer, tenant), issuer.name)


def _region(claims: Any, issuer: IssuerEntry, tenant: TenantEntry) -> str:
    named = claims.get(issuer.region_claim)
    if named is None and len(tenant.regions) == 1:
        return tenant.regions[0]
    if not isinstance(named, str) or named not in tenant.regions:
        raise Refusal(
            "region_not_allowed",
            f"this token must name a region of its tenant in the claim {issuer.region_claim!r}",
        )
    return named


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> str:
    found = [value for name, value in headers if name == b"authorization"]
    scheme, _, credential = (found[0] if found else b"").partition(b" ")
    if len(found) != 1 or scheme.lower() != b"bearer" or not credential.isascii():
        raise Refusal(
            "invalid_api_key",
            "give one API key or token: 'Authorization: Bearer KEY'"
            + (" (several were given)" if len(found) > 1 else ""),
        )
    return credential.strip().decode("ascii")


def _unknown_key() -> Refusal:
    return Refusal("invalid_api_key", "this API key is not known, or its time is over")
