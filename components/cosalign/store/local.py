"""Local folders as storage.

A write goes to a hidden temporary file beside its target, is flushed to the disk and then renamed,
so that a reader or a crash sees the old object or the new one. A generation is derived from the
content: file systems keep no counter, and times are too coarse to tell two quick writes apart. The
compare-and-swap holds a lock file, which the kernel frees when its owner dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cosalign.domain.errors import DataError, StorageError, UserError
from cosalign.domain.fingerprint import content_sha256
from cosalign.store.storage import (
    GenerationMismatch,
    ObjectStat,
    below,
    in_parallel,
    inside,
    tree_files,
)

_TEMPORARY = ".writing-"
_LOCK = ".lock-"
_FULL = {errno.ENOSPC, errno.EDQUOT}


class LocalStorage:
    """A folder; see :class:`cosalign.store.storage.Storage`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def uri(self) -> str:
        """The root as a ``file://`` address."""
        return self.root.as_uri()

    def local_path(self, path: str) -> Path:
        """The file behind an object.

        Raises:
            StorageError: The path leaves the root.
        """
        return (self.root / inside(path, str(self.root))).absolute()

    def uri_of(self, path: str) -> str:
        """The ``file://`` address of an object."""
        return self.local_path(path).as_uri()

    def read_bytes(self, path: str) -> bytes:
        """The whole object."""
        with _explained(self.local_path(path)):
            return self.local_path(path).read_bytes()

    def stat(self, path: str) -> ObjectStat | None:
        """Size, a generation derived from the content, and the file's time."""
        full = self.local_path(path)
        if not full.is_file():
            return None
        with _explained(full), full.open("rb") as file:
            data, updated = file.read(), os.fstat(file.fileno()).st_mtime
        return ObjectStat(path, len(data), _generation(data), updated)

    def list(self, prefix: str) -> list[ObjectStat]:
        """Objects below a folder. Generations are not computed here: they are 1."""
        base = self.local_path(prefix) if prefix else self.root
        files = [base / name for name in tree_files(base)] if base.is_dir() else []
        kept = sorted((str(f.relative_to(self.root)), f) for f in files if not _is_internal(f.name))
        found = []
        for path, file in kept:
            # Another process may delete it meanwhile; then it is not there, and no error.
            with suppress(FileNotFoundError):
                status = file.stat()
                found.append(ObjectStat(path, status.st_size, 1, status.st_mtime))
        return found

    def write_bytes(self, path: str, data: bytes, *, if_generation: int | None = None) -> int:
        """Writes atomically, under a lock where a generation is demanded."""
        full = self.local_path(path)
        if if_generation is None:
            _replace(full, data)
            return _generation(data)
        with _locked(full):
            now = self.stat(path)
            if (now.generation if now else 0) != if_generation:
                raise GenerationMismatch(f"{full} was changed by another writer; try again")
            _replace(full, data)
        return _generation(data)

    def delete(self, path: str) -> None:
        """Removes an object."""
        with _explained(self.local_path(path)):
            self.local_path(path).unlink(missing_ok=True)

    def upload(self, local: Path, path: str) -> None:
        """Copies a file in."""
        _copy(local, self.local_path(path))

    def download(self, path: str, local: Path) -> None:
        """Copies a file out."""
        _copy(self.local_path(path), local)

    def open(self, path: str) -> BinaryIO:
        """The file itself."""
        with _explained(self.local_path(path)):
            return self.local_path(path).open("rb")

    @contextmanager
    def as_file(self, path: str) -> Iterator[Path]:
        """The file itself."""
        full = self.local_path(path)
        if not full.is_file():
            raise DataError(f"{full}: no such file; was it moved, or the step before not run?")
        yield full

    @contextmanager
    def new_file(self, path: str) -> Iterator[Path]:
        """A hidden file beside the target, flushed and renamed at the end."""
        with _temporary(self.local_path(path)) as file:
            yield Path(file.name)

    def upload_tree(self, folder: Path, prefix: str) -> None:
        """Copies a folder in."""
        in_parallel(lambda f: self.upload(folder / f, below(prefix, f)), tree_files(folder))

    def download_tree(self, prefix: str, folder: Path) -> None:
        """Copies a folder out."""
        cut = len(below(prefix, ""))
        paths = [s.path for s in self.list(prefix)]
        in_parallel(lambda p: self.download(p, folder / p[cut:]), paths)


def _generation(data: bytes) -> int:
    return int(content_sha256(data)[:15], 16) or 1


def _is_internal(name: str) -> bool:
    return name.startswith((_TEMPORARY, _LOCK))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into messages that say what to do."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{path}: no such file; was it moved, or the step before not run?"
        ) from None
    except OSError as problem:
        raise _refusal(path, problem) from None


def _refusal(path: Path, problem: OSError) -> UserError:
    if problem.errno in _FULL:
        return StorageError(f"{path}: the disk is full; free space and run again, nothing is lost")
    if isinstance(problem, PermissionError) or problem.errno == errno.EROFS:
        return StorageError(f"{path}: no permission to write or read here; choose another folder")
    return StorageError(f"{path}: {problem.strerror or problem}")


@contextmanager
def _temporary(path: Path) -> Iterator[BinaryIO]:
    """A temporary file that becomes ``path`` when the block ends, and vanishes if it fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
    except OSError as problem:
        raise _refusal(path, problem) from None
    try:
        os.close(handle)
        with Path(name).open("r+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as problem:
        Path(name).unlink(missing_ok=True)
        raise _refusal(path, problem) from None
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _replace(path: Path, data: bytes) -> None:
    with _temporary(path) as file:
        file.write(data)


def _copy(source: Path, target: Path) -> None:
    with _explained(source):
        reader = source.open("rb")
    with reader, _temporary(target) as file:
        shutil.copyfileobj(reader, file, 1 << 22)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(_LOCK + path.name).open("a")
    except OSError as problem:
        raise _refusal(path, problem) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
