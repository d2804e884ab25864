"""Checks OpenSSH signatures (``ssh-keygen -Y sign``) without OpenSSH.

People have SSH keys, on agents and on hardware, and ``ssh-keygen -Y verify`` lets anybody check a
signature without this project. The image that admits configs has no ssh-keygen, so the envelope is
read here; all that is cryptography is the ``cryptography`` package's.

Format: OpenSSH's PROTOCOL.sshsig. What is signed is the text ``SSHSIG``, the namespace, a reserved
field, the name of the hash and the hash of the message. Keys on hardware (``sk-``) sign that with
their application's hash, flags and a counter (PROTOCOL.u2f), and have to say that a person touched
them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cosalign.domain.errors import UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

MAGIC = b"SSHSIG"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_USER_PRESENT = 1
_RSA_BITS = 2048
KEY_TYPES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)
"""Public keys whose signatures can be checked; certificates and DSA are not among them."""


class SignatureRefused(UserError):
    """A signature that does not hold: torn, of another kind, or of another text or key."""


@dataclass(frozen=True)
class SshSignature:
    """A signature as it lies in a file; nothing in it is believed before :meth:`check`.

    Attributes:
        key: The public key's blob, which the signature says it is by.
        namespace: What kind of thing was signed.
        hash_name: ``sha256`` or ``sha512``.
        algorithm: How it was signed.
        value: The signature itself.
        rest: Flags and counter of a key on hardware; empty otherwise.
    """

    key: bytes
    namespace: str
    hash_name: str
    algorithm: str
    value: bytes
    rest: bytes

    def check(self, message: bytes, namespace: str) -> None:
        """Checks that the key signed this message, as this kind of thing.

        Raises:
            SignatureRefused: It did not.
        """
        if self.namespace != namespace:
            raise SignatureRefused(
                f"it was made for {self.namespace!r}, and {namespace!r} is asked for"
            )
        digest = _HASHES[self.hash_name](message).digest()
        signed = MAGIC + b"".join(
            _string(part) for part in (namespace.encode(), b"", self.hash_name.encode(), digest)
        )
        _verify(self, signed)


def key_blob(line: str) -> bytes:
    """The blob of a public key line (``ssh-ed25519 AAAA... comment``).

    Raises:
        SignatureRefused: It is no public key, or one whose signatures cannot be checked.
    """
    kind, _, rest = line.strip().partition(" ")
    if kind not in KEY_TYPES:
        raise SignatureRefused(
            f"{kind[:40]!r} is no kind of key that can approve; use one of {', '.join(KEY_TYPES)}"
        )
    try:
        blob = base64.b64decode(rest.split(" ")[0], validate=True)
        if _Reader(blob).text() != kind:
            raise SignatureRefused("the public key is of another kind than it says")
        _public_key(blob)
    except (binascii.Error, ValueError, IndexError):
        raise SignatureRefused("the public key is torn; copy its .pub file whole") from None
    return blob


def key_fingerprint(blob: bytes) -> str:
    """A key as ``ssh-keygen -l`` shows it: ``SHA256:`` and base64."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def parse_signature(text: str) -> SshSignature:
    """Reads an armoured signature.

    Raises:
        SignatureRefused: It is torn, or of a version or hash that is not known.
    """
    body = text.strip()
    if not (body.startswith(_BEGIN) and body.endswith(_END)):
        raise SignatureRefused("it is no SSH signature; make one with ssh-keygen -Y sign")
    armoured = "".join(body[len(_BEGIN) : -len(_END)].split())
    try:
        blob = base64.b64decode(armoured, validate=True)
        return _parsed(blob)
    except (binascii.Error, ValueError, IndexError):
        raise SignatureRefused("the signature is torn; sign again") from None


def _parsed(blob: bytes) -> SshSignature:
    if blob[: len(MAGIC)] != MAGIC:
        raise SignatureRefused("it is no SSH signature; make one with ssh-keygen -Y sign")
    reader = _Reader(blob[len(MAGIC) :])
    if reader.number() != 1:
        raise SignatureRefused("it is of a version that is not known; sign with OpenSSH 8.1 or on")
    key, namespace, reserved = reader.string(), reader.text(), reader.string()
    hash_name, signature = reader.text(), _Reader(reader.string())
    if reserved or not reader.at_end or hash_name not in _HASHES:
        raise SignatureRefused("it is torn, or uses a hash that is not known; sign again")
    algorithm, value = signature.text(), signature.string()
    return SshSignature(key, namespace, hash_name, algorithm, value, signature.rest())


def _verify(signature: SshSignature, signed: bytes) -> None:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        _verify_by_kind(signature, signed)
    except InvalidSignature:
        raise SignatureRefused("it is no signature of this text by this key") from None
    except (ValueError, IndexError, UnsupportedAlgorithm, binascii.Error):
        raise SignatureRefused("the signature or its key is torn; sign again") from None


def _verify_by_kind(signature: SshSignature, signed: bytes) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    kind, key = _Reader(signature.key).text(), _public_key(signature.key)
    if kind.startswith("sk-"):
        signed = _on_hardware(signature, signed)
    elif signature.rest:
        raise SignatureRefused("something stands behind the signature; sign again")
    if isinstance(key, rsa.RSAPublicKey):
        chosen = {"rsa-sha2-256": hashes.SHA256(), "rsa-sha2-512": hashes.SHA512()}
        if signature.algorithm not in chosen or key.key_size < _RSA_BITS:
            raise SignatureRefused(
                f"RSA signatures have to be rsa-sha2 with {_RSA_BITS} bits at least"
            )
        key.verify(signature.value, signed, padding.PKCS1v15(), chosen[signature.algorithm])
        return
    if signature.algorithm != kind:
        raise SignatureRefused("the signature is of another kind than its key")
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature.value, signed)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(_der(signature.value), signed, ec.ECDSA(_curve_hash(key)))
    else:
        raise SignatureRefused(f"keys of kind {kind!r} cannot approve")


def _on_hardware(signature: SshSignature, signed: bytes) -> bytes:
    """What a key on hardware signs in place of the text."""
    key = _Reader(signature.key)
    if key.text().startswith("sk-ecdsa"):
        key.string()
    key.string()
    application = key.string()
    flags, counter = signature.rest[:1], signature.rest[1:5]
    if len(signature.rest) != 5 or not flags[0] & _USER_PRESENT:  # noqa: PLR2004 one and four bytes
        raise SignatureRefused("nobody touched the key when it signed; sign again")
    hashed = hashlib.sha256(signed).digest()
    return hashlib.sha256(application).digest() + flags + counter + hashed


def _der(value: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    reader = _Reader(value)
    return encode_dss_signature(
        int.from_bytes(reader.string(), "big"), int.from_bytes(reader.string(), "big")
    )


def _curve_hash(key: EllipticCurvePublicKey) -> hashes.HashAlgorithm:
    from cryptography.hazmat.primitives import hashes

    return {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size]


def _public_key(blob: bytes) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    kind = _Reader(blob).text()
    if kind not in KEY_TYPES:
        raise SignatureRefused(f"keys of kind {kind[:40]!r} cannot approve")
    try:
        return load_ssh_public_key(f"{kind} {base64.b64encode(blob).decode()}".encode())
    except UnsupportedAlgorithm:
        raise SignatureRefused(f"keys of kind {kind!r} cannot approve") from None


def _string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


class _Reader:
    """Reads SSH's length-prefixed strings; ``ValueError`` where the bytes end too soon."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def string(self) -> bytes:
        return self._take(self.number())

    def text(self) -> str:
        return self.string().decode("utf-8")

    def rest(self) -> bytes:
        return self._take(len(self._data) - self._at)

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def _take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise ValueError("it ends too soon")
        self._at += count
        return found
