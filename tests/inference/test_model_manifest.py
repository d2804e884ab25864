"""A released model's files are held against its manifest, wherever they lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.inference.released import release

from cosalign.domain.errors import ModelError
from cosalign.inference.commands import model
from cosalign.inference.model_manifest import (
    MANIFEST_FILE,
    manifest_bytes,
    read_model_manifest,
    verify_model,
)
from cosalign.inference.models import ModelFolder
from cosalign.inference.safety_template import export_template
from cosalign.store.storage import Storage


@pytest.fixture
def folder(tiny: ModelFolder, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(tiny.path, tmp_path / "copy"))
    export_template(copy)
    (copy / "README.md").write_text("A card.")
    return copy


@pytest.fixture
def released(folder: Path, tiny: ModelFolder, storage: Storage) -> Storage:
    """The tiny model in each kind of storage, with its manifest."""
    storage.upload_tree(folder, "")
    release(storage, tiny)
    return storage


def test_a_model_is_what_was_released(released: Storage, tiny: ModelFolder) -> None:
    manifest = read_model_manifest(released)
    assert manifest.digest == tiny.digest
    assert manifest.tokenizer_digest == tiny.tokenizer_digest
    assert {"README.md", "model.safetensors", "chat_template.jinja"} <= manifest.files.keys()
    assert MANIFEST_FILE not in manifest.files
    verify_model(released, manifest)


def _append(storage: Storage, name: str) -> None:
    storage.write_bytes(name, storage.read_bytes(name) + b" ")


def _flip(storage: Storage, name: str) -> None:
    data = bytearray(storage.read_bytes(name))
    data[-1] ^= 1
    storage.write_bytes(name, bytes(data))


@pytest.mark.parametrize(("tamper", "said"), [
    (lambda s: _flip(s, "model.safetensors"), "model.safetensors was altered"),
    (lambda s: _append(s, "README.md"), "README.md was altered"),
    (lambda s: _append(s, "chat_template.jinja"), "chat_template.jinja was altered"),
    (lambda s: s.delete("config.json"), "config.json is missing"),
    (lambda s: s.write_bytes("model-2.safetensors", b"x"), "model-2.safetensors is not named"),
    (lambda s: s.write_bytes("code/own.py", b"x"), "code/own.py is not named"),
])  # fmt: skip
def test_any_change_of_a_file_is_found(
    released: Storage, tamper: Callable[[Storage], None], said: str
) -> None:
    tamper(released)
    with pytest.raises(ModelError, match=said):
        verify_model(released, read_model_manifest(released))


def test_a_manifest_that_was_changed_with_a_file_does_not_fit_its_digest(
    released: Storage, tiny: ModelFolder
) -> None:
    """Whoever alters a file and its entry must alter the digest, which others know."""
    _flip(released, "model.safetensors")
    forged = release(released, tiny)
    assert forged.digest == tiny.digest
    with pytest.raises(ModelError, match="digests are not those of the files"):
        verify_model(released, forged)


def test_many_problems_are_counted(released: Storage, tiny: ModelFolder) -> None:
    for number in range(12):
        released.write_bytes(f"extra-{number}", b"")
    with pytest.raises(ModelError, match="and 4 more"):
        verify_model(released, read_model_manifest(released))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"form": "cosalign-model/1"}'])
def test_a_torn_manifest_is_refused(released: Storage, data: bytes) -> None:
    released.write_bytes(MANIFEST_FILE, data)
    with pytest.raises(ModelError, match="model-manifest"):
        read_model_manifest(released)


def test_a_manifest_of_a_later_form_is_refused(released: Storage) -> None:
    document = json.loads(released.read_bytes(MANIFEST_FILE)) | {"form": "cosalign-model/9"}
    released.write_bytes(MANIFEST_FILE, json.dumps(document).encode())
    with pytest.raises(ModelError, match="form"):
        read_model_manifest(released)


def test_a_manifest_is_read_back_as_it_was_written(released: Storage) -> None:
    data = released.read_bytes(MANIFEST_FILE)
    assert manifest_bytes(read_model_manifest(released)) == data


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(model, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands(released: Storage, tiny: ModelFolder) -> None:
    assert tiny.digest in _run("verify", released.uri)
    assert tiny.digest in _run("verify", f"{released.uri}@sha256:{tiny.digest}")
    with pytest.raises(ModelError, match="another model"):
        _run("verify", f"{released.uri}@sha256:{'0' * 64}")
    shown = _run("show", released.uri)
    assert "safety_config" in shown
    assert "no, se" in shown
    assert "acme/questions (own)" in shown
    assert json.loads(_run("show", released.uri, "--json"))["digest"] == tiny.digest
    _flip(released, "model.safetensors")
    with pytest.raises(ModelError, match="altered"):
        _run("verify", released.uri)


def test_a_model_without_a_manifest_is_told_what_else_there_is(tiny: ModelFolder) -> None:
    with pytest.raises(ModelError, match="cosalign model inspect"):
        _run("verify", str(tiny.path))
