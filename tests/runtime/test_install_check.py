"""The check that ``helm test`` runs: it sees what is wrong before a run does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cosalign.domain.errors import ConfigError, StorageError
from cosalign.runtime.import_walk import third_party_imports
from cosalign.runtime.install_check import storage_roots, try_storage
from cosalign.store.local import LocalStorage
from cosalign.store.storage import open_storage


def _config(folder: Path, name: str, root: Path) -> str:
    file = folder / name
    file.write_text(f"storage: {{root: {root}}}\n", "utf-8")
    return str(file)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cosalign.runtime.install_check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_each_root_once(tmp_path: Path) -> None:
    files = tuple(
        _config(tmp_path, name, tmp_path / root)
        for name, root in (("a", "x"), ("b", "y"), ("c", "x"))
    )
    assert storage_roots(files) == [str(tmp_path / "x"), str(tmp_path / "y")]


def test_a_wrong_run_config_is_named(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("pairng: {}\n", "utf-8")
    with pytest.raises(ConfigError, match="pairng"):
        storage_roots((str(file),))


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    try_storage(str(tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_object_store_too(gcs_root: str) -> None:
    try_storage(gcs_root)
    assert open_storage(gcs_root).list("") == []


def test_content_that_changes_on_its_way_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStorage, "read_bytes", lambda *_: b"another's")
    with pytest.raises(StorageError, match="something else"):
        try_storage(str(tmp_path))


def test_the_program(tmp_path: Path) -> None:
    file = _config(tmp_path, "run-config.yaml", tmp_path / "root")
    done = _run(file, "--storage", str(tmp_path / "other"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{file}: a run config",
        f"{tmp_path / 'root'}: written, read, deleted",
        f"{tmp_path / 'other'}: written, read, deleted",
    ]


def test_the_program_says_what_is_wrong_and_fails(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    done = _run("--storage", str(blocked / "root"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(blocked) in done.stderr


def test_it_needs_nothing_that_a_run_s_smallest_image_lacks() -> None:
    held = third_party_imports("cosalign.pairing.__main__")
    assert set(third_party_imports("cosalign.runtime.install_check")) <= set(held)
