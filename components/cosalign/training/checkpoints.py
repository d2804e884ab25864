"""Checkpoints that survive the machine: in storage, with digests, believed only when whole.

Trainer checkpoints hold pickles (optimizer, random states, arguments), and unpickling runs code. So
a checkpoint counts only once ``complete.json``, written last, names the SHA-256 of each of its
files, and it is loaded only after they were checked. A torn or altered one is passed over for an
older one; the last ones are kept for that.

Where a stage leaves its best model, a checkpoint also names the best one so far, which is kept
beside the last. One whose best is lost is passed over too: going on from it would end in another
model than an undisturbed run.

Where storage is a local folder the trainer writes straight into it, so nothing is copied. A remote
one gets an upload after each save, and the newest is fetched on start. On several nodes each one
uploads the files that its ranks wrote, and the first writes the marker once all have.

They lie below the stage's fingerprint and not in the step's folder: a changed DPO setting must not
orphan a half-done SFT.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cosalign.domain.errors import CosalignError, DataError, StorageUnavailable
from cosalign.runtime.logs import get_logger
from cosalign.store.storage import tree_files

if TYPE_CHECKING:
    from cosalign.store.storage import Storage

COMPLETE = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")

Together = Callable[[Callable[[], dict[str, str]]], list[dict[str, str]] | None]

log = get_logger(__name__)


def alone(work: Callable[[], dict[str, str]]) -> list[dict[str, str]]:
    """The work of one node, which is all of it."""
    return [work()]


@dataclass(frozen=True)
class _Marker:
    """What ``complete.json`` says: the files with their digests, and the best step so far."""

    files: dict[str, str]
    best: int | None


class CheckpointStore:
    """The checkpoints of one stage.

    Args:
        storage: Where they survive.
        prefix: The folder in it.
        work: A local folder, used where storage is remote.
        kept: How many of the last are kept.
        together: Does a piece of work on each node that has files, and gives the first what came of
            it on each, the others ``None``; as :meth:`cosalign.training.nodes.Nodes.together`.
    """

    def __init__(
        self,
        storage: Storage,
        prefix: str,
        work: Path,
        kept: int = 2,
        together: Together = alone,
    ) -> None:
        self._storage = storage
        self._prefix = prefix
        self._kept = kept
        self._together = together
        self._local = storage.local_path(prefix)
        self.folder = self._local or work / "checkpoints"

    def publish(self, step: int, best: int | None = None) -> None:
        """Makes a checkpoint that the trainer has just written count, and drops old ones.

        On several nodes all have to call it, each with its own files.

        Args:
            step: Its step.
            best: The step of the best checkpoint so far, where a best one is kept.

        Raises:
            CosalignError: It could not be stored, here or on another node.
        """
        parts = self._together(lambda: self._stored_part(step))
        if parts is None:
            self._forget_until(step)
            return
        digests = _merged(parts)
        document = {"step": step, "best": best, "files": digests}
        self._storage.write_bytes(
            f"{self._path(step)}/{COMPLETE}", json.dumps(document, sort_keys=True).encode()
        )
        self._drop_before(step)

    def _forget_until(self, step: int) -> None:
        """Another node than the first needs no files once they are stored: it goes on from all."""
        for folder in self.folder.glob("checkpoint-*"):
            if self._local is None and step_of(folder) <= step:
                shutil.rmtree(folder, ignore_errors=True)

    def _stored_part(self, step: int) -> dict[str, str]:
        """Digests of what this node's ranks wrote, once it is in storage."""
        source = self.folder_of(step)
        (source / COMPLETE).unlink(missing_ok=True)
        digests = {file: file_sha256(source / file) for file in tree_files(source)}
        if self._local is None:
            self._storage.upload_tree(source, self._path(step))
        return digests

    def newest(self) -> Path | None:
        """The newest checkpoint that can be gone on from, fetched; ``None`` without one.

        Its files are what they were, and so is the best checkpoint that it names.
        """
        for step in sorted(self._stored(), reverse=True):
            marker = self._marker(step)
            if marker is not None and self._best_is_there(step, marker):
                folder = self._fetched(step)
                if _is_whole(folder, marker):
                    log.info("checkpoint_found", step=step)
                    return folder
            log.warning("checkpoint_refused", step=step, complete=marker is not None)
            # The trainer must not find it either.
            self._drop(step)
        return None

    def fetch(self, step: int) -> Path:
        """The folder of one checkpoint, fetched and checked.

        Raises:
            StorageUnavailable: It is not what it was; a retry trains on from before it.
        """
        marker = self._marker(step)
        folder = self._fetched(step)
        if marker is None or not _is_whole(folder, marker):
            self._drop(step)
            raise StorageUnavailable(
                f"the checkpoint of step {step} is not what was stored; it was dropped, and a "
                "retry makes it again"
            )
        return folder

    def fetch_once(self, step: int) -> Path:
        """As :meth:`fetch`, for a node whose folder another node may have filled already."""
        marker, folder = self._marker(step), self.folder_of(step)
        return folder if marker is not None and _is_whole(folder, marker) else self.fetch(step)

    def folder_of(self, step: int) -> Path:
        """Where a checkpoint lies on this node, or would."""
        return self.folder / _name(step)

    def clear(self) -> None:
        """Removes all of them; called once the stage's model is stored."""
        for stat in self._storage.list(self._prefix):
            self._storage.delete(stat.path)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> str:
        return f"{self._prefix}/{_name(step)}"

    def _stored(self) -> set[int]:
        """Steps of which anything lies in storage."""
        places = (
            stat.path.removeprefix(f"{self._prefix}/") for stat in self._storage.list(self._prefix)
        )
        names = (_NAME.fullmatch(place.partition("/")[0]) for place in places)
        return {int(match[1]) for match in names if match}

    def _marker(self, step: int) -> _Marker | None:
        """The marker of a step; ``None`` where it is missing, torn, or that of another step."""
        try:
            named = json.loads(self._storage.read_bytes(f"{self._path(step)}/{COMPLETE}"))
            if named["step"] != step:
                return None
            best = named["best"]
            return _Marker(dict(named["files"]), None if best is None else int(best))
        except (DataError, ValueError, KeyError, TypeError):
            return None

    def _best_is_there(self, step: int, marker: _Marker) -> bool:
        """Whether the best checkpoint is complete by name; its digests are checked when it is read.

        Reading 64 GB only to know that would cost more than it is worth.
        """
        if marker.best in (None, step):
            return True
        best = self._marker(marker.best)
        if best is None:
            return False
        cut = len(self._path(marker.best)) + 1
        present = {stat.path[cut:] for stat in self._storage.list(self._path(marker.best))}
        return set(best.files) <= present

    def _fetched(self, step: int) -> Path:
        folder = self.folder_of(step)
        if self._local is None:
            shutil.rmtree(folder, ignore_errors=True)
            self._storage.download_tree(self._path(step), folder)
        return folder

    def _drop_before(self, newest: int) -> None:
        """Drops what is older than the kept ones, and is not the best of one of them.

        Nothing newer is touched: the trainer may be writing it.
        """
        stored = sorted(step for step in self._stored() if step <= newest)
        markers = {step: marker for step in stored if (marker := self._marker(step))}
        last = sorted(markers)[-self._kept :]
        wanted = {*last, *(markers[step].best for step in last)}
        for step in stored:
            if step not in wanted:
                self._drop(step)

    def _drop(self, step: int) -> None:
        # The marker first: what is half deleted must not look whole.
        self._storage.delete(f"{self._path(step)}/{COMPLETE}")
        for stat in self._storage.list(self._path(step)):
            self._storage.delete(stat.path)
        shutil.rmtree(self.folder_of(step), ignore_errors=True)


def _merged(parts: list[dict[str, str]]) -> dict[str, str]:
    """The digests of all nodes' files."""
    merged: dict[str, str] = {}
    for file, digest in (item for part in parts for item in part.items()):
        if merged.setdefault(file, digest) != digest:
            raise CosalignError(f"two nodes wrote a file {file}, and not the same; it is a defect")
    return merged


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _name(step: int) -> str:
    return f"checkpoint-{step}"


def _is_whole(folder: Path, marker: _Marker) -> bool:
    """Whether the folder holds the files of its marker, all and no other."""
    present = set(tree_files(folder)) - {COMPLETE}
    return present == set(marker.files) and all(
        file_sha256(folder / file) == digest for file, digest in marker.files.items()
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, streamed, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
