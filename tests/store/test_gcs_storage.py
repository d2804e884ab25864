from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import RefreshError

from cosalign.domain.errors import ConfigError, DataError, StorageError, StorageUnavailable
from cosalign.store.storage import Storage, open_storage


def bucket_of(root: str) -> str:
    return root.removeprefix("gs://").partition("/")[0]


def test_no_file_stands_behind_an_object(gcs_root: str) -> None:
    storage = open_storage(gcs_root)
    assert storage.uri == gcs_root
    assert storage.local_path("a") is None
    assert storage.uri_of("a/b") == f"{gcs_root}/a/b"


def test_a_bucket_without_a_prefix_is_a_root(gcs_root: str) -> None:
    bucket = open_storage(f"gs://{bucket_of(gcs_root)}")
    name = gcs_root.rpartition("/")[2]
    open_storage(gcs_root).write_bytes("deep/a", b"x")
    assert bucket.read_bytes(f"{name}/deep/a") == b"x"
    assert [s.path for s in bucket.list(name)] == [f"{name}/deep/a"]
    assert f"{name}/deep/a" in [s.path for s in bucket.list("")]


def test_generations_grow_even_if_the_content_stays(gcs_root: str) -> None:
    storage = open_storage(gcs_root)
    assert storage.write_bytes("a", b"x") < storage.write_bytes("a", b"x")


def test_a_missing_bucket_is_named(gcs_root: str) -> None:
    nowhere = open_storage("gs://no-such-bucket/x")
    with pytest.raises(DataError, match="gs://no-such-bucket/x/a"):
        nowhere.read_bytes("a")
    with pytest.raises(DataError, match="gs://no-such-bucket/x"):
        nowhere.list("")
    with pytest.raises(DataError, match="gs://no-such-bucket/x/a"):
        nowhere.write_bytes("a", b"x")


def test_a_folder_that_cannot_be_made_is_named(gcs_root: str, tmp_path: Path) -> None:
    storage = open_storage(gcs_root)
    storage.write_bytes("a", b"x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="choose another folder"):
        storage.download("a", tmp_path / "file" / "a")


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Storage:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("COSALIGN_STORAGE_DEADLINE", "0.1")
    return open_storage("gs://bucket/root")


@pytest.mark.parametrize(
    "operation", ["read", "write", "write if", "stat", "list", "delete", "upload", "download"]
)
def test_a_server_that_does_not_answer_is_worth_a_retry(
    operation: str, unreachable: Storage, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    attempts: dict[str, Callable[[], object]] = {
        "read": lambda: unreachable.read_bytes("a"),
        "write": lambda: unreachable.write_bytes("a", b"x"),
        "write if": lambda: unreachable.write_bytes("a", b"x", if_generation=0),
        "stat": lambda: unreachable.stat("a"),
        "list": lambda: unreachable.list(""),
        "delete": lambda: unreachable.delete("a"),
        "upload": lambda: unreachable.upload(source, "a"),
        "download": lambda: unreachable.download("a", tmp_path / "target"),
    }
    with pytest.raises(StorageUnavailable, match=r"gs://bucket/root.*did not answer") as problem:
        attempts[operation]()
    assert problem.value.exit_code == 75
    assert not (tmp_path / "target").exists()


def test_a_token_that_is_not_given_is_worth_a_retry(
    unreachable: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise RefreshError("the metadata server is not there")

    monkeypatch.setattr(AnonymousCredentials, "before_request", refused)
    with pytest.raises(StorageUnavailable, match=r"no access token was given \(RefreshError\)"):
        unreachable.read_bytes("a")


def test_a_deadline_that_is_no_number_is_refused(
    unreachable: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSALIGN_STORAGE_DEADLINE", "soon")
    with pytest.raises(ConfigError, match="COSALIGN_STORAGE_DEADLINE='soon'"):
        unreachable.read_bytes("a")
