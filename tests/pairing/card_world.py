"""Tables of two finished steps, laid down by hand, and the pairing step run on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from cosalign.domain.fingerprint import row_id
from cosalign.domain.run_config import RunConfig
from cosalign.domain.schemas import CONFIGS, DRAWS, FOLLOWS, PROMPTS, RESPONSES, VERDICTS
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.pairing.step import PairingStep
from cosalign.runtime.step import StepManifest, run_step
from cosalign.store.storage import Storage, open_storage
from cosalign.store.tables import write_table

TAXONOMY = load_taxonomy("cosa", "1")
MONEY, ABUSE, VIOLENCE = 1, 2, 4
PROMPT_TEXT = "Which odds does the corner bookmaker give?"
ANSWERS: dict[str, tuple[int, bool | None, int, str]] = {
    "money": (MONEY, True, 40, "hot"),
    "abuse": (ABUSE, True, 30, "hot"),
    "both": (MONEY | ABUSE, True, 20, "hot"),
    "plain": (0, True, 10, "calm"),
    "no": (0, False, 4, "calm"),
    "unsure": (0, None, 6, "calm"),
}
"""Name to risks, whether it addresses the prompt, tokens, and who wrote it."""
PROMPT_ROWS: dict[str, tuple[int, str | None, str]] = {
    "cards": (MONEY, "mit", "train"),
    "jokes": (MONEY | ABUSE, None, "train"),
    "bread": (0, "mit", "train"),
    "spare": (0, "mit", "held_out"),
}
CONFIG_ROWS = {"exact0": ("e", MONEY, None), "exact1": ("e", MONEY, None), "none0": ("n", 0, "de")}
DRAWN = [("cards", "exact0"), ("cards", "none0"), ("jokes", "exact1"), ("bread", "none0")]
OWN_THRESHOLD = {"financial_crime_theft": 0.2}
COUNTS = {
    "prompts_read": 9, "prompts_kept": 4, "split_train": 3, "split_held_out": 1,
    "prompts_contaminated": 2, "prompts_duplicate": 3, "prompts_too_long": 0, "labels_made": 4,
    "engine_starts": 1,
}  # fmt: skip


def response_id(prompt: str, answer: str) -> str:
    return row_id("made up", [prompt, answer])


def config_of(root: Path, calibration: str | None = None, **pairing: Any) -> RunConfig:
    generators = [
        {"name": "hot", "model": "double:hot", "temperature": 0.5},
        {"name": "calm", "replies": "calm.jsonl"},
    ]
    plain = {
        "storage": {"root": str(root)},
        "models": {"base": "double:base"},
        "synthesis": {"generators": generators},
        "scoring": {"calibration": calibration} if calibration else {"thresholds": OWN_THRESHOLD},
        "pairing": pairing,
    }
    return RunConfig.model_validate_json(json.dumps(plain))


def made_tables(storage: Storage) -> dict[str, StepManifest]:
    """Writes both steps' tables and manifests where a run would have left them."""
    rows: dict[str, tuple[pa.Schema, list[dict[str, object]]]] = {
        "prompts": (PROMPTS, [_prompt(n) for n in PROMPT_ROWS]),
        "configs": (CONFIGS, [_config(n) for n in CONFIG_ROWS]),
        "draws": (DRAWS, [_draw(p, c) for p, c in DRAWN]),
        "responses": (RESPONSES, [_response(p, a) for p in PROMPT_ROWS for a in ANSWERS]),
        "verdicts": (VERDICTS, [_verdict(p, a) for p in PROMPT_ROWS for a in ANSWERS]),
        "follows": (FOLLOWS, []),
    }
    refs = {
        name: write_table(storage, f"{name}.parquet", pa.Table.from_pylist(r, schema=s), s)
        for name, (s, r) in rows.items()
    }
    scored = {name: refs.pop(name) for name in ("verdicts", "follows")}
    found = {}
    for step, tables, counts in (
        ("synthesis", refs, COUNTS),
        ("scoring", scored, {"verdicts": 24, "verdicts_unknown": 4}),
    ):
        found[step] = StepManifest(
            step=step, fingerprint="ab" * 32, storage=storage.uri, tables=tables, counts=counts
        )
        path = f"steps/{step}/{'ab' * 32}/manifest.json"
        storage.write_bytes(path, found[step].model_dump_json().encode())
    return found


def finished(
    root: Path, calibration: str | None = None, **pairing: Any
) -> tuple[StepManifest, Storage]:
    """The pairing step's manifest over the made-up tables."""
    storage = open_storage(str(root))
    manifest, _ = run_step(
        PairingStep(), config_of(root, calibration, **pairing), made_tables(storage)
    )
    return manifest, storage


def finished_freeform(root: Path) -> Storage:
    """The same with one prompt drawn under a region's policy, which one answer of two follows."""
    storage = open_storage(str(root))
    made = made_tables(storage)
    policy = {**_config("none0"), "config_id": "policy", "kind": "freeform", "allowed_mask": None,
              "template": "", "order": "", "digest": "p"}  # fmt: skip
    draw = {"prompt_id": "cards", "config_id": "policy", "mode": "regional", "allowed_mask": None}
    judged = [
        {"response_id": response_id("cards", answer), "config_id": "policy", "judge": "j" * 64,
         "follows": follows, "follows_probability": 0.875 if follows else 0.25, "outside_mass": 0.1}
        for answer, follows in (("plain", True), ("both", False))
    ]  # fmt: skip
    for step, name, schema, rows in (
        ("synthesis", "configs", CONFIGS, [policy]),
        ("synthesis", "draws", DRAWS, [draw]),
        ("scoring", "follows", FOLLOWS, judged),
    ):
        table = pa.Table.from_pylist(rows, schema=schema)
        made[step].tables[name] = write_table(storage, f"free/{name}.parquet", table, schema)
    for step, manifest in made.items():
        path = f"steps/{step}/{'ab' * 32}/manifest.json"
        storage.write_bytes(path, manifest.model_dump_json().encode())
    run_step(PairingStep(), config_of(root), made)
    return storage


def _prompt(name: str) -> dict[str, object]:
    mask, licence, split = PROMPT_ROWS[name]
    return {
        "prompt_id": name, "text": f"{PROMPT_TEXT} {name}", "language": None,
        "source": f"{licence}.jsonl", "licence": licence,
        "risk_mask": mask, "known_mask": 255, "split": split,
    }  # fmt: skip


def _config(name: str) -> dict[str, object]:
    digest, mask, region = CONFIG_ROWS[name]
    return {
        "config_id": name, "kind": "categorical", "taxonomy_digest": TAXONOMY.digest,
        "allowed_mask": mask, "text": f"Rules {name}", "template": "t1", "order": "o",
        "region": region, "digest": digest,
    }  # fmt: skip


def _draw(prompt: str, config: str) -> dict[str, object]:
    return {
        "prompt_id": prompt, "config_id": config, "mode": "exact",
        "allowed_mask": CONFIG_ROWS[config][1],
    }  # fmt: skip


def _response(prompt: str, answer: str) -> dict[str, object]:
    _, _, tokens, generator = ANSWERS[answer]
    return {
        "response_id": response_id(prompt, answer), "prompt_id": prompt, "generator": generator,
        "config_id": "exact0" if generator == "hot" else None, "draw": 0,
        "text": f"Answer {answer}\x1b[31m", "finish_reason": "stop", "tokens": tokens,
    }  # fmt: skip


def _verdict(prompt: str, answer: str) -> dict[str, object]:
    risks, addressed, _, _ = ANSWERS[answer]
    return {
        "response_id": response_id(prompt, answer), "prompt_id": prompt, "judge": "j" * 64,
        "risk_mask": risks, "known_mask": 255, "risk_probability": [0.25] * 8,
        "addressed": addressed, "addressed_probability": None if addressed is None else 0.75,
        "helpfulness": 3, "outside_mass": 0.1,
    }  # fmt: skip
