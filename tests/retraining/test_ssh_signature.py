"""Signatures by OpenSSH are accepted, and nothing that was altered or made up is."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from tests.retraining.approval_world import Keys

from cosalign.retraining.ssh_signature import (
    SignatureRefused,
    key_blob,
    key_fingerprint,
    parse_signature,
)

MESSAGE, NAMESPACE = b"a statement\n", "config-approval@cosalign.dev"


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_what_openssh_signs_is_accepted_and_nothing_near_it(tmp_path: Path, kind: str) -> None:
    keys = Keys(tmp_path)
    key = key_blob(keys.public("ada", kind))
    signature = parse_signature(keys.sign("ada", MESSAGE, NAMESPACE))
    assert signature.key == key
    signature.check(MESSAGE, NAMESPACE)
    with pytest.raises(SignatureRefused, match="no signature of this text"):
        signature.check(b"another statement\n", NAMESPACE)
    with pytest.raises(SignatureRefused, match="was made for"):
        signature.check(MESSAGE, "git")


def test_a_signature_for_git_is_none_for_configs(tmp_path: Path) -> None:
    signature = parse_signature(Keys(tmp_path).sign("ada", MESSAGE, "git"))
    with pytest.raises(SignatureRefused, match="'git'"):
        signature.check(MESSAGE, NAMESPACE)


def test_fingerprints_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    blob = key_blob(keys.public("ada"))
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(keys.made["ada"])], capture_output=True, check=True
    )
    assert key_fingerprint(blob) in shown.stdout.decode().split()


def string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def hardware_signature(flags: int, message: bytes = MESSAGE) -> str:
    """As a security key makes it (PROTOCOL.u2f, PROTOCOL.sshsig), by a key in software."""
    secret, kind = Ed25519PrivateKey.generate(), b"sk-ssh-ed25519@openssh.com"
    raw = secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    key = string(kind) + string(raw) + string(b"ssh:")
    digest = hashlib.sha512(message).digest()
    signed = b"SSHSIG" + b"".join(map(string, (NAMESPACE.encode(), b"", b"sha512", digest)))
    counted = bytes([flags]) + (7).to_bytes(4, "big")
    hashed = hashlib.sha256(b"ssh:").digest() + counted + hashlib.sha256(signed).digest()
    value = string(kind) + string(secret.sign(hashed)) + counted
    blob = b"SSHSIG" + (1).to_bytes(4, "big")
    blob += b"".join(map(string, (key, NAMESPACE.encode(), b"", b"sha512", value)))
    armoured = base64.b64encode(blob).decode()
    return f"-----BEGIN SSH SIGNATURE-----\n{armoured}\n-----END SSH SIGNATURE-----\n"


def test_a_key_on_hardware_has_to_have_been_touched() -> None:
    parse_signature(hardware_signature(flags=1)).check(MESSAGE, NAMESPACE)
    with pytest.raises(SignatureRefused, match="touched"):
        parse_signature(hardware_signature(flags=0)).check(MESSAGE, NAMESPACE)
    with pytest.raises(SignatureRefused, match="no signature of this text"):
        parse_signature(hardware_signature(1, b"other")).check(MESSAGE, NAMESPACE)


ARMOURED = hardware_signature(flags=1)


@given(st.data())
def test_no_altered_byte_goes_unseen(data: st.DataObject) -> None:
    lines = ARMOURED.splitlines()
    blob = bytearray(base64.b64decode("".join(lines[1:-1])))
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    altered = "\n".join([lines[0], base64.b64encode(bytes(blob)).decode(), lines[-1]])
    with pytest.raises(SignatureRefused):
        parse_signature(altered).check(MESSAGE, NAMESPACE)


@given(st.binary(max_size=200))
def test_garbage_is_refused_in_words(blob: bytes) -> None:
    body = base64.b64encode(b"SSHSIG" + (1).to_bytes(4, "big") + blob).decode()
    armoured = f"-----BEGIN SSH SIGNATURE-----\n{body}\n-----END SSH SIGNATURE-----"
    for text in (blob.decode("latin-1"), armoured):
        with pytest.raises(SignatureRefused):
            parse_signature(text).check(MESSAGE, NAMESPACE)


@pytest.mark.parametrize(
    "line",
    ["", "ssh-dss AAAA", "ssh-ed25519", "ssh-ed25519 !!!", "ssh-ed25519 AAAA", "nonsense",
     "ssh-ed25519-cert-v01@openssh.com AAAA"],
)  # fmt: skip
def test_what_is_no_key_is_refused(line: str) -> None:
    with pytest.raises(SignatureRefused):
        key_blob(line)


def test_a_short_rsa_key_cannot_approve(tmp_path: Path) -> None:
    made = subprocess.run(
        ["ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", str(tmp_path / "ada")],
        check=False, capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("this OpenSSH makes no short keys")
    keys = Keys(tmp_path, {"ada": tmp_path / "ada"})
    signature = parse_signature(keys.sign("ada", MESSAGE, NAMESPACE))
    with pytest.raises(SignatureRefused, match="2048 bits"):
        signature.check(MESSAGE, NAMESPACE)
