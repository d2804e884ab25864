"""Tokens (JWT) of a company's own login: checked by issuer, audience, time and signature.

PyJWT does the cryptography. What is ours is which key may check which token: the issuer is looked
up by the token's own claim among the known ones, and only that issuer's keys, algorithms and
audience count from then on, so that one issuer can never speak for another's tenants.

Keys are fetched in the background and looked at again where a token names an unknown one, at most
every half minute: a stranger's invented key ids cost nothing. Where an issuer cannot be reached,
its keys stay good for an hour, then its tokens are refused.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from cosalign.domain.errors import ConfigError, CosalignError, TransientError
from cosalign.runtime.logs import get_logger
from cosalign.serving.refusals import Refusal
from cosalign.serving.tenants import IssuerEntry
from cosalign.serving.whole_body import TooLongError, whole_body
from cosalign.store.storage import read_uri

LONGEST_TOKEN = 8192
LONGEST_JWKS = 1 << 20
REFRESH_SECONDS = 300.0
SOONEST_SECONDS = 30.0
GOOD_SECONDS = 3600.0

_log = get_logger(__name__)


@dataclass
class _Keys:
    """An issuer's public keys by id; moments of the steady clock."""

    by_id: dict[str | None, Any] = field(default_factory=dict)
    fetched: float = -GOOD_SECONDS
    tried: float = -GOOD_SECONDS


class TokenChecker:
    """Checks tokens against their issuers' keys.

    Args:
        http: For fetching keys.
    """

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._keys: dict[str, _Keys] = {}
        self._fetching = asyncio.Lock()

    async def claims(self, token: str, issuers: dict[str, IssuerEntry]) -> tuple[IssuerEntry, Any]:
        """The issuer of a token, and its claims.

        Args:
            token: As the caller sent it.
            issuers: The known issuers, by their claim ``iss``.

        Raises:
            Refusal: It is no good token of any of them.
        """
        if len(token) > LONGEST_TOKEN:
            raise _bad("it is too long")
        try:
            header = jwt.get_unverified_header(token)
            said = jwt.decode(token, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            raise _bad("it is no JSON web token") from None
        claimed = said.get("iss")
        issuer = issuers.get(claimed) if isinstance(claimed, str) else None
        if issuer is None:
            raise _bad("its issuer is not known here")
        key = await self._key(issuer, header.get("kid"))
        try:
            return issuer, jwt.decode(
                token,
                key,
                algorithms=list(issuer.algorithms),
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=issuer.leeway_seconds,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.InvalidTokenError, TypeError, ValueError) as problem:
            raise _bad(_REASONS.get(type(problem).__name__, "it is not valid")) from None

    async def refresh(self, issuers: dict[str, IssuerEntry]) -> None:
        """Fetches the keys of those issuers whose keys are no longer fresh."""
        for issuer in issuers.values():
            if time.monotonic() - self._of(issuer).tried >= REFRESH_SECONDS:
                await self._fetch(issuer)

    async def _key(self, issuer: IssuerEntry, id_: str | None) -> Any:
        keys = self._of(issuer)
        if id_ not in keys.by_id and time.monotonic() - keys.tried >= SOONEST_SECONDS:
            await self._fetch(issuer)
        if time.monotonic() - keys.fetched > GOOD_SECONDS:
            raise Refusal(
                "credentials_stale",
                "the keys of this token's issuer cannot be fetched; try again later",
                retry_after=SOONEST_SECONDS,
            )
        if id_ not in keys.by_id:
            raise _bad("its issuer has no such key")
        return keys.by_id[id_]

    def _of(self, issuer: IssuerEntry) -> _Keys:
        # By address too: an entry that points elsewhere now starts with no keys.
        return self._keys.setdefault(f"{issuer.issuer} {issuer.jwks}", _Keys())

    async def _fetch(self, issuer: IssuerEntry) -> None:
        keys = self._of(issuer)
        async with self._fetching:
            if time.monotonic() - keys.tried < SOONEST_SECONDS:
                return
            keys.tried = time.monotonic()
            try:
                keys.by_id = _parsed(await self._document(issuer.jwks), issuer)
                keys.fetched = time.monotonic()
            except (CosalignError, OSError, TimeoutError) as problem:
                _log.warning("keys not fetched", issuer=issuer.name, reason=str(problem))

    async def _document(self, address: str) -> bytes:
        if not address.startswith(("http://", "https://")):
            return await asyncio.to_thread(read_uri, address)
        try:
            timeout = aiohttp.ClientTimeout(total=10)
            async with self._http.get(address, timeout=timeout, allow_redirects=False) as answer:
                if answer.status != 200:  # noqa: PLR2004
                    raise TransientError(f"{address} answers {answer.status}")
                return await whole_body(answer, LONGEST_JWKS)
        except TooLongError:
            raise ConfigError(f"{address}: longer than {LONGEST_JWKS} bytes: no key set") from None
        except aiohttp.ClientError as problem:
            raise TransientError(f"{address}: {type(problem).__name__}") from None


_REASONS = {
    "ExpiredSignatureError": "its time is over",
    "ImmatureSignatureError": "its time has not come",
    "InvalidAudienceError": "it is for another audience",
    "InvalidSignatureError": "its signature is wrong",
    "InvalidAlgorithmError": "its algorithm is not accepted",
    "MissingRequiredClaimError": "it lacks one of exp, iss, aud",
}


def _bad(reason: str) -> Refusal:
    return Refusal("invalid_token", f"this token is not accepted: {reason}")


def _parsed(document: bytes, issuer: IssuerEntry) -> dict[str | None, Any]:
    """Public keys by id. Symmetric ones are left out: they would let the checker sign."""
    try:
        listed = jwt.PyJWKSet.from_dict(json.loads(document)).keys
    except (ValueError, jwt.PyJWTError, UnsupportedAlgorithm, AttributeError, TypeError) as problem:
        raise ConfigError(
            f"{issuer.jwks}: no key set ({type(problem).__name__}); correct jwks of issuer "
            f"{issuer.name!r}"
        ) from None
    uses = (None, "sig")
    public = [key for key in listed if key.key_type != "oct" and key.public_key_use in uses]
    if not public:
        raise ConfigError(f"{issuer.jwks}: holds no public key for signatures")
    return {key.key_id: key for key in public}
