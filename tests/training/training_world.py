"""A small world to train in: mild prompts, two configs, responses and pairs, as tables."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from cosalign.domain import schemas
from cosalign.domain.fingerprint import prompt_id_of, row_id
from cosalign.domain.run_config import RunConfig
from cosalign.inference.hf_tokenizer import load_tokenizer
from cosalign.inference.models import ModelFolder
from cosalign.runtime.step import StepManifest
from cosalign.store.storage import Storage, open_storage
from cosalign.store.tables import write_table
from cosalign.training.encode import ChatEncoder, Rows, encode_dpo, encode_sft, end_of_turn
from cosalign.training.records import Records, Sources, join_records

TOPICS = ("beer", "swords", "dice", "cards", "wine", "darts", "chess", "boxing")
ERRORS = (0, 10, 1, 30)
SETTINGS: dict[str, dict[str, object]] = {
    "sft": {"learning_rate": 1e-3, "batch_size": 4, "micro_batch_size": 2, "save_steps": 2},
    "dpo": {
        "learning_rate": 1e-3,
        "batch_size": 4,
        "micro_batch_size": 2,
        "save_steps": 2,
        "max_steps": 6,
    },
}
TRAINING: dict[str, object] = {"precision": "fp32", **SETTINGS}


def sources(topics: int = len(TOPICS), spelt: str = "") -> Sources:
    """Two configs and four responses a prompt; every pair of unequal error whose better is fine.

    Args:
        topics: How many prompts.
        spelt: Put into every prompt, to try control tokens.
    """
    texts = [f"Tell me of {topic} {spelt}in a word." for topic in TOPICS[:topics]]
    prompts = [_prompt(text) for text in texts]
    configs = [_config("Be kind. All is allowed."), _config("Be safe. No games of chance.")]
    responses = [r for p in prompts for r in _responses(str(p["prompt_id"]))]
    pairs = [
        pair
        for p, c in itertools.product(prompts, configs)
        for pair in _pairs(str(p["prompt_id"]), str(c["config_id"]), responses)
    ]
    return Sources(
        pa.Table.from_pylist(prompts, schema=schemas.PROMPTS),
        pa.Table.from_pylist(configs, schema=schemas.CONFIGS),
        pa.Table.from_pylist(responses, schema=schemas.RESPONSES),
        pa.Table.from_pylist(pairs, schema=schemas.PAIRS),
    )


def _prompt(text: str) -> dict[str, object]:
    return {
        "prompt_id": prompt_id_of(text),
        "text": text,
        "language": None,
        "source": "test",
        "licence": None,
        "risk_mask": 1,
        "known_mask": 255,
        "split": "train",
    }


def _config(text: str) -> dict[str, object]:
    return {
        "config_id": row_id("config", text),
        "kind": "categorical",
        "taxonomy_digest": "0",
        "allowed_mask": 1,
        "text": text,
        "template": "t",
        "order": "",
        "region": None,
        "digest": "0",
    }


def _responses(prompt_id: str) -> list[dict[str, object]]:
    answers = ("A warm word.", "I would rather not.", "Well, well, a word or two", "Rude joke!")
    return [
        {
            "response_id": row_id("response", [prompt_id, text]),
            "prompt_id": prompt_id,
            "generator": "base",
            "config_id": None,
            "draw": draw,
            "text": text,
            "finish_reason": "length" if draw == 2 else "stop",
            "tokens": 5,
        }
        for draw, text in enumerate(answers)
    ]


def _pairs(
    prompt_id: str, config_id: str, responses: list[dict[str, object]]
) -> list[dict[str, object]]:
    own = [r["response_id"] for r in responses if r["prompt_id"] == prompt_id]
    scored = list(zip(own, ERRORS, strict=True))
    return [
        {
            "prompt_id": prompt_id,
            "config_id": config_id,
            "chosen_id": better,
            "rejected_id": worse,
            "chosen_error": low,
            "rejected_error": high,
        }
        for (better, low), (worse, high) in itertools.permutations(scored, 2)
        if low < high and low < 30
    ]


@dataclass(frozen=True)
class Encoded:
    """Records of the small world, and their rows."""

    records: Records
    sft: Rows
    dpo: Rows


def encoded(model: ModelFolder, world: Sources | None = None, max_length: int = 640) -> Encoded:
    """The small world, encoded by a model's tokenizer."""
    records = join_records(world or sources(), seed=0)
    tokenizer = load_tokenizer(model)
    encoder = ChatEncoder(tokenizer, end_of_turn(tokenizer), records.cut)
    return Encoded(
        records,
        encode_sft(records.sft, encoder, max_length),
        encode_dpo(records.dpo, encoder, max_length),
    )


class _RemoteView:
    """Local storage that gives no local paths, as an object store does."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner

    def local_path(self, _path: str) -> Path | None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def remote_storage(folder: Path) -> Storage:
    """Storage that must be up- and downloaded, over a folder."""
    return cast("Storage", _RemoteView(open_storage(str(folder))))


def run_config(root: Path, base: str, training: dict[str, object] | None = None) -> RunConfig:
    """A run config over a folder."""
    return RunConfig.model_validate(
        {
            "storage": {"root": str(root / "out"), "cache": str(root / "cache")},
            "models": {"base": base},
            "training": TRAINING if training is None else training,
        }
    )


def manifests(config: RunConfig, world: Sources) -> dict[str, StepManifest]:
    """Writes the world's tables and gives the manifests of the steps that would have made them."""
    storage = open_storage(config.storage.root)

    def manifest(step: str, tables: dict[str, tuple[pa.Table, pa.Schema]]) -> StepManifest:
        refs = {
            name: write_table(storage, f"steps/{step}/{name}.parquet", table, schema)
            for name, (table, schema) in tables.items()
        }
        return StepManifest(step=step, fingerprint="0", storage=storage.uri, tables=refs)

    synthesis = {
        "prompts": (world.prompts, schemas.PROMPTS),
        "configs": (world.configs, schemas.CONFIGS),
        "responses": (world.responses, schemas.RESPONSES),
    }
    return {
        "synthesis": manifest("synthesis", synthesis),
        "pairing": manifest("pairing", {"pairs": (world.pairs, schemas.PAIRS)}),
    }
