"""A small world to evaluate in: mild prompts with labels, regions' files, and hand-made inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from cosalign.domain.fingerprint import prompt_id_of
from cosalign.domain.run_config import RunConfig
from cosalign.domain.schemas import DRAWS, PROMPTS
from cosalign.domain.taxonomy import Taxonomy, load_taxonomy
from cosalign.runtime.step import StepManifest
from cosalign.store.storage import open_storage
from cosalign.store.tables import write_table

TAXONOMY: Taxonomy = load_taxonomy("cosa", "1")
FINANCIAL, ABUSE, VIOLENCE, DRUGS = 1, 2, 4, 8
MASKS = (0, FINANCIAL, ABUSE, FINANCIAL | VIOLENCE, DRUGS)


def prompts_table(count: int = 20, *, unknown: int = 0, trained: int = 3) -> pa.Table:
    """Held-out prompts whose labels go round :data:`MASKS`, then trained ones.

    Args:
        count: Held-out prompts.
        unknown: How many of them, from the first, have an unknown label.
        trained: Prompts of the train split.
    """
    rows = [
        _prompt(f"Held out: what beats a pair of {i}s at cards?", MASKS[i % 5], "held_out", i)
        for i in range(count)
    ]
    for row in rows[:unknown]:
        row["known_mask"] = TAXONOMY.full_mask ^ 1
    rows += [_prompt(f"Trained: which beer suits dish {i}?", 0, "train", i) for i in range(trained)]
    return pa.Table.from_pylist(rows, schema=PROMPTS)


def _prompt(text: str, mask: int, split: str, number: int) -> dict[str, Any]:
    return {
        "prompt_id": prompt_id_of(text),
        "text": text,
        "language": None,
        "source": "test.jsonl",
        "licence": None,
        "risk_mask": mask,
        "known_mask": TAXONOMY.full_mask,
        "split": split,
    }


def draws_table(*allowed: int, config_id: str = "c") -> pa.Table:
    """Draws of one trained prompt under allowed sets."""
    rows = [
        {"prompt_id": "p", "config_id": f"{config_id}{i}", "mode": "exact", "allowed_mask": mask}
        for i, mask in enumerate(allowed or (0, FINANCIAL))
    ]
    return pa.Table.from_pylist(rows, schema=DRAWS)


def write_region(
    folder: Path,
    name: str,
    allowed: list[str] | None = None,
    text: str | None = None,
    region: str = "EU",
) -> Path:
    """Writes a region's config as a file; JSON is YAML too."""
    form: dict[str, object] = {"allowedRisks": allowed} if text is None else {"text": text}
    document = {
        "apiVersion": "cosalign.dev/v1alpha1",
        "kind": "SafetyConfig",
        "metadata": {"name": name},
        "spec": {"taxonomy": {"name": "cosa", "version": "1"}, "region": region, **form},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def benchmark_row(
    prompt: str, allowed: list[str], risks: list[str], **more: object
) -> dict[str, object]:
    """One row in the form of CoSAlign-Test."""
    return {"allowed": allowed, "risks": risks, "prompt": prompt, **more}


def jsonl(rows: list[dict[str, object]]) -> bytes:
    """Rows as a JSONL file."""
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def run_config(root: Path, **evaluation: object) -> RunConfig:
    """A run config over a folder, with the engine double."""
    return RunConfig.model_validate(
        {
            "storage": {"root": str(root / "out"), "cache": str(root / "cache")},
            "models": {
                "base": "double:base",
                "judge": "double:judge",
                "engine": {"kind": "double", "max_model_len": 20_000},
            },
            "configs": {"files": (str(root / "regions"),)},
            "judging": {"canaries": False},
            "evaluation": {"prompts_per_config": 6, "bootstrap": 100, **evaluation},
        }
    )


def inputs(
    config: RunConfig, prompts: pa.Table | None = None, draws: pa.Table | None = None
) -> dict[str, StepManifest]:
    """The manifests of the steps before, with the prompts table and a curve in storage."""
    storage = open_storage(config.storage.root)
    table = prompts_table() if prompts is None else prompts
    ref = write_table(storage, "steps/synthesis/prompts.parquet", table, PROMPTS)
    drawn = draws_table() if draws is None else draws
    drawn_ref = write_table(storage, "steps/synthesis/draws.parquet", drawn, DRAWS)
    curve = {"sft": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], "dpo": []}
    storage.write_bytes("steps/training/curve.json", json.dumps(curve).encode())
    return {
        "synthesis": StepManifest(
            step="synthesis",
            fingerprint="0",
            storage=storage.uri,
            tables={"prompts": ref, "draws": drawn_ref},
            counts={"prompts_kept": 23, "labels_made": 17, "engine_starts": 2},
        ),
        "training": StepManifest(
            step="training",
            fingerprint="0",
            storage=storage.uri,
            models={"sft": "double:sft", "dpo": "double:dpo"},
            files={"curve": "steps/training/curve.json"},
        ),
    }
