"""Fingerprints: one answer to "is this the same thing?", for rows, files' meanings and steps.

Contract: two values have the same fingerprint if and only if their canonical JSON is the same
(keys sorted, no white space, UTF-8, no NaN). There is no fallback encoder on purpose: a ``repr``
with an address in it would make the fingerprint differ from process to process, so a value that
is not plain JSON is refused with ``TypeError``. What the contract cannot see: a change of meaning
of equal values (a definition edited without a new version); whoever builds the value puts a
version in it.

``SCHEME`` is hashed in. When the canonical form has to change, it is raised, and an old
fingerprint then reads as another identity, never as a corrupt one.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence

SCHEME = "cosalign/1"
KEY_BYTES = 16

Json = str | int | float | bool | None | Mapping[str, "Json"] | Sequence["Json"]


def canonical_json(value: Json) -> bytes:
    """The one byte string of a JSON value.

    Raises:
        TypeError: The value holds something that JSON does not know.
        ValueError: The value holds NaN or an infinity.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8", "surrogatepass")


def _sha256(kind: str, value: Json) -> hashlib._Hash:
    return hashlib.sha256(f"{SCHEME}\n{kind}\n".encode() + canonical_json(value))


def fingerprint(kind: str, value: Json) -> str:
    """Identity of a value as 64 hex digits.

    Args:
        kind: What the value is ("taxonomy", "step"), so that equal values of two kinds differ.
        value: Plain JSON.
    """
    return _sha256(kind, value).hexdigest()


def row_key(kind: str, value: Json) -> bytes:
    """Identity of a ledger row: the first 128 bits of its fingerprint, 16 bytes."""
    return _sha256(kind, value).digest()[:KEY_BYTES]


def row_id(kind: str, value: Json) -> str:
    """Identity of a table row: 32 hex digits, the same bits as :func:`row_key`."""
    return row_key(kind, value).hex()


def seed_of(kind: str, value: Json) -> int:
    """A 63-bit seed that depends on content alone, so that order and shards change no draw."""
    return int.from_bytes(_sha256(kind, value).digest()[-8:], "big") >> 1


def content_sha256(data: bytes) -> str:
    """SHA-256 of a file's bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def normalise_text(text: str) -> str:
    """The form under which two prompts count as the same one.

    Unicode NFKC, case folded, runs of white space become one space, ends stripped.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def prompt_id_of(text: str) -> str:
    """Identity of a prompt: the row id of its normalised text."""
    return row_id("prompt", normalise_text(text))
