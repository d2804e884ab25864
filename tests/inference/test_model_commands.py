from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cosalign.domain.errors import ModelError
from cosalign.inference.commands import model
from cosalign.inference.models import ModelFolder


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(model, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_tiny_makes_a_model_that_inspect_knows(tiny: ModelFolder, tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    assert _run("tiny", str(out)).strip().endswith(str(out))
    report = json.loads(_run("inspect", str(out), "--cache", str(tmp_path)))
    assert report == {
        "uri": str(out),
        "path": str(out),
        "architecture": "LlamaForCausalLM",
        "digest": tiny.digest,
        "tokenizer_digest": tiny.tokenizer_digest,
    }


def test_inspect_knows_the_double(tmp_path: Path) -> None:
    report = json.loads(_run("inspect", "double:a", "--cache", str(tmp_path)))
    assert report["architecture"] == "double"


def test_inspect_refuses_what_a_run_would_refuse(tiny_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        _run("inspect", str(copy), "--cache", str(tmp_path))


def test_smollm2_keeps_a_finished_folder(tiny_folder: Path) -> None:
    assert _run("smollm2", str(tiny_folder)).strip() == str(tiny_folder)
