"""Who may ask, for which region, how much: the tenants' file.

::

    tenants:
      - name: pub-chain
        regions: [ie]
        keys: [{id: k1f0c…, hash: 93ab…}]           # as `cosalign gateway key` prints them
        issuers: [corporate]                       # whose tokens may speak for this tenant
        limits: {requests_per_minute: 600}
    issuers:
      - {name: corporate, issuer: https://login.example, audience: cosalign, jwks: https://…}

A region belongs to the credential, never to a request. A tenant with one region has it under each
of its credentials; with several, each key names one, and tokens say it in ``region_claim``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC
from typing import Self
from urllib.parse import urlparse

from pydantic import Field, field_validator, model_validator

from cosalign.domain.errors import ConfigError
from cosalign.domain.safety_config import IsoDate, moment_of
from cosalign.domain.validation import StrictModel, validated
from cosalign.domain.yaml_text import parse_yaml

ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""Signatures that a public key checks. With a shared secret, whoever checks could also sign."""


class Limits(StrictModel):
    """How much one tenant may ask for, at each replica of the gateway.

    Attributes:
        requests_per_minute: Requests, in the mean; a tenth of it at once.
        tokens_per_minute: Tokens of prompts and answers together, in the mean.
        at_once: Requests at the same time.
        body_bytes: Of one request.
        messages: Of one request.
        prompt_tokens: Of one request, the config not counted.
        completion_tokens: Of one answer.
        choices: Answers to one request (``n``).
    """

    requests_per_minute: int = Field(default=600, ge=1)
    tokens_per_minute: int = Field(default=600_000, ge=1)
    at_once: int = Field(default=64, ge=1)
    body_bytes: int = Field(default=262_144, ge=1024)
    messages: int = Field(default=64, ge=1)
    prompt_tokens: int = Field(default=4096, ge=1)
    completion_tokens: int = Field(default=1024, ge=1)
    choices: int = Field(default=4, ge=1)


class KeyEntry(StrictModel):
    """An API key at rest."""

    id: str = Field(pattern="^k[0-9a-f]{12}$")
    hash: str = Field(pattern="^[0-9a-f]{64}$")
    region: str | None = None
    expires: IsoDate | None = None


class IssuerEntry(StrictModel):
    """Whoever signs tokens (JWT), and how they name a tenant.

    Attributes:
        name: What tenants call it here.
        issuer: The claim ``iss``.
        audience: The claim ``aud``.
        jwks: Address of its public keys: https, a file, or ``gs://``.
        algorithms: Signatures that are accepted.
        tenant_claim: The claim that names the tenant.
        region_claim: The claim that names the region, for tenants with several.
        leeway_seconds: For clocks that differ.
    """

    name: str
    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    jwks: str
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    tenant_claim: str = "tenant"
    region_claim: str = "region"
    leeway_seconds: float = Field(default=30.0, ge=0, le=300)

    @field_validator("algorithms")
    @classmethod
    def _asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in ASYMMETRIC:
                raise ValueError(f"{name!r} is not accepted; choose of {sorted(ASYMMETRIC)}")
        return value

    @field_validator("jwks")
    @classmethod
    def _over_tls(cls, value: str) -> str:
        parsed = urlparse(value)
        if parsed.scheme == "http" and parsed.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("keys that came over plain http prove nothing; use https")
        return value


class TenantEntry(StrictModel):
    """One tenant."""

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    regions: tuple[str, ...] = Field(min_length=1)
    configs: dict[str, str] = {}
    keys: tuple[KeyEntry, ...] = ()
    issuers: tuple[str, ...] = ()
    limits: Limits = Limits()
    suspended: bool = False

    @model_validator(mode="after")
    def _regions_fit(self) -> Self:
        named = [key.region for key in self.keys if key.region is not None]
        for region in (*named, *self.configs):
            if region not in self.regions:
                raise ValueError(f"region {region!r} is none of this tenant's")
        if len(self.regions) > 1 and len(named) < len(self.keys):
            raise ValueError("a tenant of several regions needs a region at each key")
        return self


class TenantsFile(StrictModel):
    """The whole file."""

    tenants: tuple[TenantEntry, ...]
    issuers: tuple[IssuerEntry, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        known = {issuer.name for issuer in self.issuers}
        _distinct("issuer", [issuer.name for issuer in self.issuers])
        _distinct("issuer address", [issuer.issuer for issuer in self.issuers])
        _distinct("tenant", [tenant.name for tenant in self.tenants])
        _distinct("key", [key.id for tenant in self.tenants for key in tenant.keys])
        for tenant in self.tenants:
            if unknown := set(tenant.issuers) - known:
                raise ValueError(f"tenant {tenant.name!r}: no issuer is called {unknown.pop()!r}")
        return self


def _distinct(kind: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{kind} {name!r} stands twice")
        seen.add(name)


@dataclass(frozen=True)
class Caller:
    """Who asks, as their credential says.

    Attributes:
        tenant: The tenant.
        region: The region whose config applies.
        credential: Id of the key, or name of the issuer; for the audit.
    """

    tenant: TenantEntry
    region: str
    credential: str


@dataclass(frozen=True)
class KnownKey:
    """A key's entry with its tenant; ``expires`` in seconds since 1970."""

    entry: KeyEntry
    tenant: TenantEntry
    expires: float | None

    def caller(self) -> Caller:
        """Who asks with it."""
        return Caller(self.tenant, self.entry.region or self.tenant.regions[0], self.entry.id)

    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and time.time() >= self.expires


class Tenants:
    """The tenants' file, ready for look-ups."""

    def __init__(self, file: TenantsFile) -> None:
        self.by_name = {tenant.name: tenant for tenant in file.tenants}
        self.issuers = {issuer.issuer: issuer for issuer in file.issuers}
        self.keys = {
            key.id: KnownKey(key, tenant, _seconds(key.expires))
            for tenant in file.tenants
            for key in tenant.keys
        }


def parse_tenants(text: str, source: str) -> Tenants:
    """Reads a tenants' file.

    Raises:
        ConfigError: A field is unknown or wrong.
    """
    raw = parse_yaml(text, source, ConfigError)
    return Tenants(validated(TenantsFile, raw, source, ConfigError))


def _seconds(moment: str | None) -> float | None:
    return None if moment is None else moment_of(moment).astimezone(UTC).timestamp()
