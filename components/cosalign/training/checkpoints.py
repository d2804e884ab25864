"""Checkpoints that survive the machine: in storage, with digests, believed only when whole.

Trainer checkpoints hold pickles (optimizer, random states, arguments), and unpickling runs code. So
a checkpoint counts only once ``complete.json``, written last, names the SHA-256 of each of its
files, and it is loaded only after they were checked. A torn or altered one is passed over for an
older one; the last two are kept for that.

Where storage is a local folder the trainer writes straight into it, so nothing is copied. A remote
one gets an upload after each save, and the newest is fetched on start.

They lie below the stage's fingerprint and not in the step's folder: a changed DPO setting must not
orphan a half-done SFT.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cosalign.runtime.logs import get_logger
from cosalign.store.storage import tree_files

if TYPE_CHECKING:
    from cosalign.store.storage import Storage

KEPT = 2
COMPLETE = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")

log = get_logger(__name__)


class CheckpointStore:
    """The checkpoints of one stage.

    Args:
        storage: Where they survive.
        prefix: The folder in it.
        work: A local folder, used where storage is remote.
    """

    def __init__(self, storage: Storage, prefix: str, work: Path) -> None:
        self._storage = storage
        self._prefix = prefix
        self._local = storage.local_path(prefix)
        self.folder = self._local or work / "checkpoints"

    def publish(self, step: int) -> None:
        """Makes a checkpoint that the trainer has just written count, and drops old ones."""
        name = f"checkpoint-{step}"
        source = self.folder / name
        (source / COMPLETE).unlink(missing_ok=True)
        digests = {file: file_sha256(source / file) for file in tree_files(source)}
        if self._local is None:
            self._storage.upload_tree(source, f"{self._prefix}/{name}")
        document = json.dumps({"step": step, "files": digests}, sort_keys=True).encode()
        self._storage.write_bytes(f"{self._prefix}/{name}/{COMPLETE}", document)
        for old in sorted(self._stored())[:-KEPT]:
            self._drop(old)

    def newest(self) -> Path | None:
        """The newest checkpoint whose files are what they were, fetched; ``None`` without one."""
        for step, complete in sorted(self._stored().items(), reverse=True):
            folder = self._fetched(step) if complete else self.folder / f"checkpoint-{step}"
            if complete and self._is_whole(step, folder):
                log.info("checkpoint_found", step=step)
                return folder
            log.warning("checkpoint_refused", step=step, complete=complete)
            # The trainer must not find it either.
            self._drop(step)
        return None

    def clear(self) -> None:
        """Removes all of them; called once the stage's model is stored."""
        for stat in self._storage.list(self._prefix):
            self._storage.delete(stat.path)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stored(self) -> dict[int, bool]:
        """Steps in storage, and whether their ``complete.json`` is there."""
        found: dict[int, bool] = {}
        for stat in self._storage.list(self._prefix):
            name, _, file = stat.path.removeprefix(f"{self._prefix}/").partition("/")
            match = _NAME.fullmatch(name)
            if match:
                step = int(match[1])
                found[step] = found.get(step, False) or file == COMPLETE
        return found

    def _fetched(self, step: int) -> Path:
        folder = self.folder / f"checkpoint-{step}"
        if self._local is None:
            shutil.rmtree(folder, ignore_errors=True)
            self._storage.download_tree(f"{self._prefix}/checkpoint-{step}", folder)
        return folder

    def _is_whole(self, step: int, folder: Path) -> bool:
        """Whether the folder holds the files of its ``complete.json``, all and no other."""
        try:
            named = json.loads((folder / COMPLETE).read_bytes())
            files: dict[str, str] = dict(named["files"])
        except (ValueError, KeyError, TypeError, OSError):
            return False
        present = set(tree_files(folder)) - {COMPLETE}
        return (
            named.get("step") == step
            and present == set(files)
            and all(file_sha256(folder / file) == digest for file, digest in files.items())
        )

    def _drop(self, step: int) -> None:
        prefix = f"{self._prefix}/checkpoint-{step}"
        # The marker first: what is half deleted must not look whole.
        self._storage.delete(f"{prefix}/{COMPLETE}")
        for stat in self._storage.list(prefix):
            self._storage.delete(stat.path)
        shutil.rmtree(self.folder / f"checkpoint-{step}", ignore_errors=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, streamed, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
