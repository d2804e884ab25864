"""Google Cloud Storage as storage.

The client library retries what is transient; what is left after its deadline becomes an error with
exit code 75. ``COSALIGN_STORAGE_DEADLINE`` sets it, in seconds. ``STORAGE_EMULATOR_HOST`` points
tests at a server of their own, without credentials.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

from cosalign.domain.errors import ConfigError, DataError, StorageError, StorageUnavailable
from cosalign.store.storage import (
    GenerationMismatch,
    ObjectStat,
    below,
    in_parallel,
    inside,
    tree_files,
)

_TIMEOUT_SECONDS = 60
_RANGE_BYTES = 1 << 18
"""Least fetched by a reader at once; a footer fits, and longer reads are one request each."""
_DEADLINE_SECONDS = 120.0
_NOT_FOUND, _PRECONDITION = 404, 412
_REFUSED = {401, 403}


class GcsStorage:
    """A prefix of a bucket; see :class:`cosalign.store.storage.Storage`."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = prefix

    @property
    def uri(self) -> str:
        """The root as a ``gs://`` address."""
        return f"gs://{self.bucket}/{self.prefix}".rstrip("/")

    @cached_property
    def _client_bucket(self) -> Any:
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud import storage

        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        try:
            client = storage.Client.create_anonymous_client() if emulator else storage.Client()
        except DefaultCredentialsError:
            raise StorageError(
                f"{self.uri}: no Google credentials found; run 'gcloud auth application-default "
                "login', or give the pod a service account with workload identity"
            ) from None
        return client.bucket(self.bucket)

    @cached_property
    def _patience(self) -> dict[str, Any]:
        """How long one request may take, and all attempts together."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        given = os.environ.get("COSALIGN_STORAGE_DEADLINE", "")
        try:
            deadline = float(given) if given else _DEADLINE_SECONDS
        except ValueError:
            raise ConfigError(
                f"COSALIGN_STORAGE_DEADLINE={given!r}: write a number of seconds"
            ) from None
        return {"timeout": _TIMEOUT_SECONDS, "retry": DEFAULT_RETRY.with_timeout(deadline)}

    def _name(self, path: str) -> str:
        return f"{self.prefix}/{inside(path, self.uri)}".strip("/")

    def uri_of(self, path: str) -> str:
        """The ``gs://`` address of an object."""
        return f"gs://{self.bucket}/{self._name(path)}"

    def local_path(self, path: str) -> Path | None:  # noqa: ARG002
        """Always ``None``: no file stands behind an object."""
        return None

    def read_bytes(self, path: str) -> bytes:
        """The whole object."""
        with self._explained(path):
            data: bytes = self._client_bucket.blob(self._name(path)).download_as_bytes(
                **self._patience
            )
        return data

    def stat(self, path: str) -> ObjectStat | None:
        """Size and generation."""
        with self._explained(path):
            blob = self._client_bucket.get_blob(self._name(path), **self._patience)
        return _stat(path, blob) if blob is not None else None

    def list(self, prefix: str) -> list[ObjectStat]:
        """Objects below a folder."""
        folder = self._name(prefix)
        cut = len(self.prefix) + 1 if self.prefix else 0
        with self._explained(prefix):
            blobs = list(
                self._client_bucket.list_blobs(
                    prefix=f"{folder}/" if folder else None, **self._patience
                )
            )
        found = [_stat(b.name[cut:], b) for b in blobs]
        return sorted(found, key=lambda s: s.path)

    def write_bytes(self, path: str, data: bytes, *, if_generation: int | None = None) -> int:
        """Writes an object, under a generation precondition where one is given."""
        blob = self._client_bucket.blob(self._name(path))
        with self._explained(path):
            blob.upload_from_string(
                data,
                content_type="application/octet-stream",
                if_generation_match=if_generation,
                **self._patience,
            )
        return int(blob.generation)

    def delete(self, path: str) -> None:
        """Removes an object."""
        from google.api_core.exceptions import NotFound

        with self._explained(path):
            try:
                self._client_bucket.blob(self._name(path)).delete(**self._patience)
            except NotFound:
                return

    def upload(self, local: Path, path: str) -> None:
        """Streams a file in."""
        if not local.is_file():
            raise DataError(f"{local}: no such file; was it moved, or the step before not run?")
        with self._explained(path):
            self._client_bucket.blob(self._name(path)).upload_from_filename(
                str(local), **self._patience
            )

    def download(self, path: str, local: Path) -> None:
        """Streams an object out, through a temporary file."""
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise StorageError(f"{local}: {problem.strerror}; choose another folder") from None
        partial = local.with_name(f".writing-{local.name}")
        with self._explained(path):
            self._client_bucket.blob(self._name(path)).download_to_filename(
                str(partial), **self._patience
            )
        partial.replace(local)

    def open(self, path: str) -> BinaryIO:
        """A reader by range requests."""
        with self._explained(path):
            blob = self._client_bucket.get_blob(self._name(path), **self._patience)
        if blob is None:
            raise _by_status(self.uri_of(path), _NOT_FOUND, "")
        reader = blob.open("rb", chunk_size=_RANGE_BYTES, **self._patience)
        return cast("BinaryIO", _ExplainedReader(reader, lambda: self._explained(path)))

    @contextmanager
    def as_file(self, path: str) -> Iterator[Path]:
        """A download into a scratch folder."""
        with tempfile.TemporaryDirectory(prefix="cosalign-") as folder:
            file = Path(folder) / path.rpartition("/")[2]
            self.download(path, file)
            yield file

    @contextmanager
    def new_file(self, path: str) -> Iterator[Path]:
        """A file in a scratch folder, uploaded at the end."""
        with tempfile.TemporaryDirectory(prefix="cosalign-") as folder:
            file = Path(folder) / path.rpartition("/")[2]
            yield file
            self.upload(file, path)

    def upload_tree(self, folder: Path, prefix: str) -> None:
        """Uploads a folder."""
        in_parallel(lambda f: self.upload(folder / f, below(prefix, f)), tree_files(folder))

    def download_tree(self, prefix: str, folder: Path) -> None:
        """Downloads a folder."""
        cut = len(below(prefix, ""))
        paths = [s.path for s in self.list(prefix)]
        # Anyone may name an object "a//etc/x"; joined as it stands, that would be "/etc/x" here.
        in_parallel(lambda p: self.download(p, folder / inside(p[cut:], str(folder))), paths)

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """Turns the client's errors into ours, by what a retry could change."""
        import requests
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import GoogleAuthError, TransportError

        where = self.uri_of(path)
        try:
            yield
        except GoogleAPICallError as problem:
            raise _by_status(where, problem.code, problem.message) from None
        except (RetryError, TransportError, requests.RequestException, ConnectionError) as problem:
            kind = type(problem).__name__
            raise StorageUnavailable(f"{where}: storage did not answer ({kind}); retry") from None
        except GoogleAuthError as problem:
            raise StorageUnavailable(
                f"{where}: no access token was given ({type(problem).__name__}); retry, or check "
                "the account's credentials"
            ) from None


def _stat(path: str, blob: Any) -> ObjectStat:
    return ObjectStat(path, blob.size, blob.generation, blob.updated.timestamp())


class _ExplainedReader(io.BufferedIOBase):
    """The client's reader, whose errors are ours: a range may fail long after the opening."""

    def __init__(self, reader: Any, explained: Callable[[], AbstractContextManager[None]]) -> None:
        self._reader = reader
        self._explained = explained

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        with self._explained():
            data: bytes = self._reader.read(-1 if size is None else size)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._explained():
            return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())


def _by_status(where: str, status: int | None, message: str) -> Exception:
    if status == _NOT_FOUND:
        return DataError(f"{where}: no such object; was it moved, or the step before not run?")
    if status == _PRECONDITION:
        return GenerationMismatch(f"{where} was changed by another writer; try again")
    if status in _REFUSED:
        return StorageError(f"{where}: access refused ({status}); grant the account access")
    return StorageUnavailable(f"{where}: storage answered {status}: {message[:200]}; retry")
