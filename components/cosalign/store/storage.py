"""One small interface over local folders and Google Cloud Storage.

All that the project keeps goes through it, so it promises only what both can hold: whole-object
atomic writes, a generation precondition for the few objects that writers race for, and listing.
Anything richer (append, rename, locks) is built on these or not used at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlparse

from cosalign.domain.errors import DataError, StorageError, StorageUnavailable

TRANSFERS = 8
"""Files moved at a time by :func:`upload_tree` and :func:`download_tree`."""


class GenerationMismatch(StorageUnavailable):
    """Another writer was faster; read again and retry."""


@dataclass(frozen=True)
class ObjectStat:
    """One stored object.

    Attributes:
        path: Where it lies.
        size: Bytes.
        generation: Changes whenever its content does.
        updated: When it was written, seconds since 1970 by the storage's own clock; only ever to be
            held against other such times.
    """

    path: str
    size: int
    generation: int
    updated: float = 0.0


class Storage(Protocol):
    """Objects under a root. Paths are relative to it and use ``/``."""

    @property
    def uri(self) -> str:
        """The root's address."""
        ...

    def read_bytes(self, path: str) -> bytes:
        """The whole object. Raises ``DataError`` where it is missing."""
        ...

    def write_bytes(self, path: str, data: bytes, *, if_generation: int | None = None) -> int:
        """Writes an object atomically and gives its new generation.

        Args:
            path: Where.
            data: The whole content.
            if_generation: Write only if the object still has this generation; 0 means that it
                must not exist.

        Raises:
            GenerationMismatch: The precondition does not hold.
        """
        ...

    def stat(self, path: str) -> ObjectStat | None:
        """Size and generation, or ``None`` where there is no such object."""
        ...

    def list(self, prefix: str) -> list[ObjectStat]:
        """All objects whose path starts with the folder ``prefix``, sorted by path."""
        ...

    def delete(self, path: str) -> None:
        """Removes an object; a missing one is fine."""
        ...

    def upload(self, local: Path, path: str) -> None:
        """Streams a local file into an object, atomically."""
        ...

    def download(self, path: str, local: Path) -> None:
        """Streams an object into a local file, atomically."""
        ...

    def open(self, path: str) -> BinaryIO:
        """A seekable reader that fetches what is read. Raises ``DataError`` where it is missing."""
        ...

    def as_file(self, path: str) -> AbstractContextManager[Path]:
        """A local file with the object's content, for as long as the block lasts."""
        ...

    def new_file(self, path: str) -> AbstractContextManager[Path]:
        """A local file to fill, which becomes the object when the block ends without an error."""
        ...

    def upload_tree(self, folder: Path, prefix: str) -> None:
        """Uploads all files of a folder, several at a time."""
        ...

    def download_tree(self, prefix: str, folder: Path) -> None:
        """Downloads all objects under a prefix, several at a time."""
        ...

    def local_path(self, path: str) -> Path | None:
        """The file behind an object, or ``None`` where storage is remote."""
        ...

    def uri_of(self, path: str) -> str:
        """The address of an object."""
        ...


def open_storage(uri: str) -> Storage:
    """Opens a root: a local path, ``file://`` or ``gs://bucket/prefix``.

    Raises:
        StorageError: The scheme is not known, or the bucket is missing.
    """
    parsed = urlparse(uri)
    if parsed.scheme == "gs":
        from cosalign.store.gcs import GcsStorage

        if not parsed.netloc:
            raise StorageError(f"{uri}: no bucket; write gs://BUCKET/PREFIX")
        return GcsStorage(parsed.netloc, parsed.path.strip("/"))
    from cosalign.store.local import LocalStorage

    return LocalStorage(_local_root(uri))


def _local_root(uri: str) -> Path:
    parsed = urlparse(uri)
    if parsed.scheme == "file":
        if parsed.netloc not in ("", "localhost"):
            raise StorageError(f"{uri}: a file address names no host; write file:///FOLDER")
        return Path(unquote(parsed.path))
    if parsed.scheme and "://" in uri:
        raise StorageError(f"{uri}: scheme {parsed.scheme!r} is not known; use a path or gs://")
    if not uri:
        raise StorageError("the storage address is empty; set storage.root to a folder or gs://")
    return Path(uri).expanduser()


def _split(uri: str) -> tuple[Storage, str]:
    if uri.startswith("gs://"):
        folder, _, name = uri.rpartition("/")
        return open_storage(folder), name
    path = _local_root(uri)
    return open_storage(str(path.parent)), path.name


def read_uri(uri: str) -> bytes:
    """The content of any single file or object."""
    storage, name = _split(uri)
    return storage.read_bytes(name)


def local_file(uri: str, cache: Path) -> Path:
    """A file behind an address, for readers that stream: the file itself, or a copy of the object.

    Args:
        uri: Local path, ``file://`` or ``gs://``.
        cache: A local folder; copies lie in it under the object's generation, so that a changed
            object is fetched again and an unchanged one is not.

    Raises:
        DataError: There is no such file or object.
    """
    storage, name = _split(uri)
    path = storage.local_path(name)
    if path is not None:
        if not path.is_file():
            raise DataError(f"{path}: no such file; correct the path")
        return path
    stat = storage.stat(name)
    if stat is None:
        raise DataError(f"{uri}: no such object; correct the address")
    digest = hashlib.sha256(uri.encode()).hexdigest()[:16]
    copy = cache / "files" / digest / str(stat.generation) / PurePosixPath(name).name
    if not copy.is_file():
        storage.download(name, copy)
    return copy


def write_uri(uri: str, data: bytes) -> None:
    """Writes any single file or object, atomically."""
    storage, name = _split(uri)
    storage.write_bytes(name, data)


def uri_as_file(uri: str) -> AbstractContextManager[Path]:
    """A local file with the content of any single file or object; see :meth:`Storage.as_file`."""
    storage, name = _split(uri)
    return storage.as_file(name)


def list_uris(uri: str, suffix: str) -> list[str]:
    """The address itself where it ends with ``suffix``, else the objects below it that do."""
    if uri.endswith(suffix):
        return [uri]
    storage = open_storage(uri)
    return [storage.uri_of(s.path) for s in storage.list("") if s.path.endswith(suffix)]


def inside(path: str, root: str) -> str:
    """The path itself, if it stays below its root.

    Raises:
        StorageError: It is absolute, or climbs with ``..``.
    """
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise StorageError(f"{path!r} leaves the storage root {root}")
    return path


def below(prefix: str, name: str) -> str:
    """The path of a name below a prefix, which may be empty or end with a slash."""
    return f"{prefix.rstrip('/')}/{name}" if prefix else name


def tree_files(folder: Path) -> list[str]:
    """Relative paths of all files below a folder, sorted."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def in_parallel(action: Callable[[str], object], paths: Iterable[str]) -> None:
    """Runs an action on each path, :data:`TRANSFERS` at a time; the first error is raised."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        for _ in pool.map(action, paths):
            pass
