"""API keys: made here, shown once, kept as a keyed hash.

A key holds 256 random bits, so what protects it at rest need not be slow: nobody can try them out,
whatever the hash costs. A password hash (scrypt, argon2) would defend against guessing that cannot
happen, and would cost each request 50 ms and each stranger with a wrong key a means to keep the
gateway busy. So it is HMAC-SHA-256. The secret it is keyed with (the pepper) lies apart from the
tenants' file: whoever can only write that file cannot plant a key of his own.

The part between the dashes names the entry, so that one comparison is made, in constant time, and
no table of hashes is searched with an attacker's value.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from cosalign.domain.errors import ConfigError
from cosalign.store.storage import read_uri

PREFIX = "cosalign-"
SECRET_BYTES = 32
ID_BYTES = 6
FORM = rf"{PREFIX}k[0-9a-f]{{{2 * ID_BYTES}}}-[\w-]+"
"""What a key looks like, as a regular expression."""
LEAST_PEPPER = 32
_NO_HASH = "0" * 64


@dataclass(frozen=True)
class NewKey:
    """A key as it is handed out; ``hash`` is what is kept."""

    key: str
    id: str
    hash: str


def new_key(pepper: bytes) -> NewKey:
    """A fresh key."""
    # A letter first: YAML reads 123456789012 and 12e456789012 as numbers.
    id_ = f"k{secrets.token_hex(ID_BYTES)}"
    key = f"{PREFIX}{id_}-{secrets.token_urlsafe(SECRET_BYTES)}"
    return NewKey(key, id_, key_hash(key, pepper))


def key_hash(key: str, pepper: bytes) -> str:
    """HMAC-SHA-256 of a key, 64 hex digits."""
    return hmac.new(pepper, key.encode(), hashlib.sha256).hexdigest()


def key_id(key: str) -> str:
    """The public part of a key; empty where it has none."""
    return key.removeprefix(PREFIX).partition("-")[0]


def key_fits(key: str, kept: str | None, pepper: bytes) -> bool:
    """Whether a key is the one whose hash is kept, in a time that says nothing of either."""
    fits = hmac.compare_digest(key_hash(key, pepper), kept or _NO_HASH)
    return fits and kept is not None


def read_pepper(address: str) -> bytes:
    """The secret that keys are hashed under.

    Raises:
        ConfigError: It is too short.
    """
    pepper = read_uri(address).strip()
    if len(pepper) < LEAST_PEPPER:
        raise ConfigError(
            f"{address}: holds {len(pepper)} bytes; a pepper needs {LEAST_PEPPER} or more. Make "
            "one with: openssl rand -hex 32"
        )
    return pepper
