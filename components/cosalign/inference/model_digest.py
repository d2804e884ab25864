"""Identity of a model: what it is made of, whatever it is called and wherever it lies.

The digest covers what changes an answer: config, generation config, weights, tokenizer and chat
template; a README does not. A chat template that was exported to take the safety config as an
argument counts as the one it was made from, since it answers messages alike.

Hashing 16 GB takes longer than many steps, so each file's hash is remembered under (path, size,
mtime, inode). What that cannot see: bytes changed in place with the mtime put back.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cosalign.domain.fingerprint import canonical_json, fingerprint
from cosalign.inference.safety_template import TEMPLATE_FILE, counted_template

WEIGHTS = "*.safetensors"
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    TEMPLATE_FILE,
    "chat_template.json",
)
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    *TOKENIZER_FILES,
)


def model_digests(folder: Path, cache: Path) -> tuple[str, str]:
    """Digest of the model in a folder and of its tokenizer, 64 hex digits each.

    Args:
        folder: The model's.
        cache: Where files' hashes are remembered.
    """
    hashes = file_hashes(folder, cache)
    if TEMPLATE_FILE in hashes:
        counted = counted_template(folder)
        hashes = {n: h for n, h in hashes.items() if n != TEMPLATE_FILE}
        hashes |= {TEMPLATE_FILE: counted} if counted else {}
    return digests_of(hashes)


def digests_of(hashes: Mapping[str, str]) -> tuple[str, str]:
    """Both digests, from the SHA-256 of each file that counts."""
    tokenizer = {name: sha256 for name, sha256 in hashes.items() if name in TOKENIZER_FILES}
    return fingerprint("model", dict(hashes)), fingerprint("tokenizer", tokenizer)


def file_hashes(folder: Path, cache: Path) -> dict[str, str]:
    """SHA-256 of each file of a model, by name."""
    names = sorted(
        {file for file in MODEL_FILES if (folder / file).is_file()}
        | {path.name for path in folder.glob(WEIGHTS)}
    )
    remembered = _HashMemory(cache / "file-hashes")
    return {name: remembered.sha256(folder / name) for name in names}


class _HashMemory:
    """SHA-256 of files, remembered by what ``stat`` says of them; one small file an entry."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sha256(self, path: Path) -> str:
        real = path.resolve()
        stat = real.stat()
        key = canonical_json([str(real), stat.st_size, stat.st_mtime_ns, stat.st_ino])
        entry = self._folder / hashlib.sha256(key).hexdigest()[:40]
        try:
            known = entry.read_text(encoding="ascii")
        except OSError:
            known = ""
        if len(known) == hashlib.sha256().digest_size * 2:
            return known
        with real.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        self._remember(entry, digest)
        return digest

    def _remember(self, entry: Path, digest: str) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="ascii", dir=self._folder, delete=False
            ) as draft:
                draft.write(digest)
            Path(draft.name).replace(entry)
        except OSError:
            # A read-only or full cache costs time at the next step, and nothing else.
            return
