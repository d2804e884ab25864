from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cosalign.domain.errors import ModelError, TransientError
from cosalign.inference.architectures import ARCHITECTURES, ENCODERS
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.store.storage import open_storage


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


@pytest.fixture
def resolve(tmp_path: Path) -> Callable[[Path | str], ModelFolder]:
    return lambda uri: resolve_model(str(uri), tmp_path / "cache")


Resolve = Callable[[Path | str], ModelFolder]


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_copy_elsewhere_is_the_same_model(
    tiny: ModelFolder, copy: Path, resolve: Resolve
) -> None:
    found = resolve(copy)
    assert (found.digest, found.tokenizer_digest) == (tiny.digest, tiny.tokenizer_digest)
    assert found.path == copy.resolve()
    assert found.uri == str(copy)


def test_a_readme_is_no_part_of_the_identity(
    tiny: ModelFolder, copy: Path, resolve: Resolve
) -> None:
    (copy / "README.md").write_text("hello")
    assert resolve(copy).digest == tiny.digest


@pytest.mark.parametrize(
    ("file", "tokenizer_changes"),
    [
        ("config.json", False),
        ("generation_config.json", False),
        ("model.safetensors", False),
        ("tokenizer.json", True),
        ("chat_template.jinja", True),
    ],
)
def test_what_changes_an_answer_changes_the_digest(
    tiny: ModelFolder, copy: Path, resolve: Resolve, file: str, tokenizer_changes: bool
) -> None:
    before = resolve(copy)
    path = copy / file
    path.write_bytes(path.read_bytes() + b"\n")
    after = resolve(copy)
    assert before.digest == tiny.digest != after.digest
    assert (after.tokenizer_digest != before.tokenizer_digest) == tokenizer_changes


def test_a_file_is_hashed_once(copy: Path, resolve: Resolve) -> None:
    weights = copy / "model.safetensors"
    first = resolve(copy)
    stat = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    with weights.open("r+b") as stream:
        stream.write(data)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    # Same size, mtime and inode: the remembered hash is used, which is the documented limit.
    assert resolve(copy).digest == first.digest
    os.utime(weights)
    assert resolve(copy).digest != first.digest


def test_an_unwritable_cache_does_no_harm(tiny: ModelFolder, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert resolve_model(str(copy), tmp_path / "file").digest == tiny.digest


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "training_args.bin",
        "model.pt",
        "a.pth",
        "last.ckpt",
        "x.pkl",
        "w.h5",
        "flax_model.msgpack",
        "UPPER.BIN",
    ],
)
def test_pickled_files_are_refused_by_name(copy: Path, resolve: Resolve, name: str) -> None:
    (copy / name).write_bytes(b"")
    with pytest.raises(ModelError, match=re.escape(name)) as caught:
        resolve(copy)
    assert "safetensors" in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(copy: Path, resolve: Resolve, file: str) -> None:
    _edit(copy / file, auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    with pytest.raises(ModelError, match=re.escape(f"auto_map in {file}")):
        resolve(copy)


def test_python_files_are_refused(copy: Path, resolve: Resolve) -> None:
    (copy / "modeling_x.py").write_text("")
    with pytest.raises(ModelError, match=r"modeling_x\.py"):
        resolve(copy)


@pytest.mark.parametrize(
    ("architectures", "message"),
    [(["LlamaForCausallm"], "LlamaForCausalLM"), ([], "no architecture"), (None, "no architec")],
)
def test_unknown_architectures_are_refused(
    copy: Path, resolve: Resolve, architectures: object, message: str
) -> None:
    _edit(copy / "config.json", architectures=architectures)
    with pytest.raises(ModelError, match=message):
        resolve(copy)


def test_a_refused_architecture_names_the_list_and_what_to_do(copy: Path, resolve: Resolve) -> None:
    _edit(copy / "config.json", architectures=["MambaForCausalLM"])
    with pytest.raises(ModelError, match=r"Use a model of a listed one; .*architectures\.yaml"):
        resolve(copy)


def test_each_listed_architecture_ships_with_transformers() -> None:
    import transformers

    for name in ARCHITECTURES | ENCODERS:
        assert hasattr(transformers, name), name
    assert not ARCHITECTURES & ENCODERS


def test_a_pinned_model_is_taken_if_it_is_that_one(
    tiny: ModelFolder, copy: Path, resolve: Resolve
) -> None:
    found = resolve(f"{copy}@sha256:{tiny.digest}")
    assert (found.path, found.digest) == (copy.resolve(), tiny.digest)
    _edit(copy / "generation_config.json", temperature=0.5)
    with pytest.raises(ModelError, match=f"has digest {resolve(copy).digest}; it was changed"):
        resolve(f"{copy}@sha256:{tiny.digest}")


def test_a_pinned_model_in_gs_is_held_against_its_digest(
    tiny: ModelFolder, gcs_root: str, resolve: Resolve
) -> None:
    uri = f"{gcs_root}/pinned"
    open_storage(uri).upload_tree(tiny.path, "")
    assert resolve(f"{uri}@sha256:{tiny.digest}").digest == tiny.digest
    open_storage(uri).write_bytes("chat_template.jinja", b"other")
    with pytest.raises(ModelError, match="it was changed"):
        resolve(f"{uri}@sha256:{tiny.digest}")


def test_a_double_can_be_pinned_too(resolve: Resolve) -> None:
    digest = resolve("double:a").digest
    assert resolve(f"double:a@sha256:{digest}").digest == digest
    with pytest.raises(ModelError, match="it was changed"):
        resolve(f"double:b@sha256:{digest}")


@pytest.mark.parametrize("pin", ["", "abc", "A" * 64, "0" * 63, "0" * 65])
def test_what_is_pinned_must_be_a_digest(copy: Path, resolve: Resolve, pin: str) -> None:
    with pytest.raises(ModelError, match="64 hex digits"):
        resolve(f"{copy}@sha256:{pin}")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no .*weights"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_incomplete_folders_are_refused(
    copy: Path, resolve: Resolve, missing: str, message: str
) -> None:
    (copy / missing).unlink()
    with pytest.raises(ModelError, match=message):
        resolve(copy)


def test_a_missing_shard_is_named(copy: Path, resolve: Resolve) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-00002\.safetensors is missing"):
        resolve(copy)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_torn_config_is_refused(copy: Path, resolve: Resolve, text: str) -> None:
    (copy / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve(copy)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "models.base"),
        ("  ", "models.base"),
        ("/no/such/folder", "does not exist"),
        ("./no-such-folder", "does not exist"),
        ("a/b/c", "does not exist"),
        ("not a name", "neither a local folder nor"),
    ],
)
def test_bad_addresses_have_clear_errors(resolve: Resolve, uri: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(uri)


def test_a_file_is_no_model(copy: Path, resolve: Resolve) -> None:
    with pytest.raises(ModelError, match="is a file"):
        resolve(copy / "config.json")


def test_an_unreachable_hub_is_transient(
    resolve: Resolve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="cannot be reached"):
        resolve("some-organisation/some-model")


def test_offline_and_not_cached_says_so(resolve: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        resolve("some-organisation/some-model")


def test_doubles_differ_by_name_and_need_no_folder(resolve: Resolve) -> None:
    one, other = resolve("double:a"), resolve("double:b")
    assert one.is_double
    assert not one.path.exists()
    assert one.digest != other.digest
    assert one.tokenizer_digest == other.tokenizer_digest
    assert resolve("double:a") == one


def test_a_model_is_fetched_from_gs_once(
    tiny: ModelFolder, gcs_root: str, resolve: Resolve, tmp_path: Path
) -> None:
    uri = f"{gcs_root}/team/tiny"
    open_storage(uri).upload_tree(tiny.path, "")
    found = resolve(uri)
    assert found.digest == tiny.digest
    assert found.path.is_relative_to(tmp_path / "cache")
    inode = (found.path / "config.json").stat().st_ino
    assert resolve(uri) == found
    assert (found.path / "config.json").stat().st_ino == inode
    # Another content under the same address is another folder, hence another model.
    open_storage(uri).write_bytes("chat_template.jinja", b"other")
    assert resolve(uri).digest != found.digest
    assert [path.name for path in (tmp_path / "cache" / "models").glob(".*")] == []


def test_pickles_in_gs_are_refused_before_they_are_fetched(
    tiny: ModelFolder, gcs_root: str, resolve: Resolve, tmp_path: Path
) -> None:
    uri = f"{gcs_root}/bad"
    open_storage(uri).write_bytes("pytorch_model.bin", b"x")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        resolve(uri)
    assert not (tmp_path / "cache" / "models").exists()


def test_an_empty_prefix_in_gs_is_no_model(gcs_root: str, resolve: Resolve) -> None:
    with pytest.raises(ModelError, match="holds no files"):
        resolve(f"{gcs_root}/nothing")


def test_resolving_imports_no_torch(tiny_folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cosalign.inference.models import resolve_model;"
        f"resolve_model({str(tiny_folder)!r}, Path({str(tmp_path)!r}));"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
