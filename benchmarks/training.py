"""Training: our SFT and DPO against TRL's own trainers with default settings, in one run.

``make bench-training``, or ``python -m benchmarks.training FOLDER``. Same model, rows in the same
order, optimizer, rate and batch of eight in one micro batch (TRL's default), and a thread a core;
each measurement is a process of its own (so that its peak memory is its own), sides alternate, and
medians count. Token ids are random; their lengths follow quantiles measured on 77 pairs that the
small profile made of real prompts with SmolLM2-135M: contexts of 34 to 351 tokens, answers of 9 to
33. TRL computes its reference in every step; ours is computed once, by answers and not by pairs,
and stands in the figures as a third of its cost, as over three epochs.

Keys: ``dpo_speedup_vs_trl`` (pairs a second, reference included on both sides),
``dpo_peak_memory_ratio`` (ours over TRL's), ``sft_speedup_vs_trl`` (tokens a second),
``reference_increment_share`` (cost of the pass for 5 % more rows, over that of the first pass).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from benchmarks.measuring import peak_mib, publish, surroundings, timed

BATCH, STEPS, EPOCHS = 8, 3, 3
MICRO_BATCH = BATCH
"""Rows a forward pass, on both sides: activations grow with it, and so does peak memory."""
REFERENCE_PAIRS = 160
# Nothing else should run beside it; make gives one thread, for tests that run side by side.
THREADS = str(os.cpu_count() or 1)
QUANTILES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
CONTEXT = (34, 52, 63, 139, 262, 316, 351)
CHOSEN = (25, 32, 32, 32, 32, 32, 33)
REJECTED = (9, 32, 32, 32, 32, 32, 33)
ANSWERS_A_CONTEXT = 4


def pairs(count: int) -> list[dict[str, Any]]:
    """Pairs of random ids; four answers a context, as Algorithm 1 makes them."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        context = _ids(rng, CONTEXT)
        answers = [_ids(rng, CHOSEN if i % 2 else REJECTED) for i in range(ANSWERS_A_CONTEXT)]
        for chosen, rejected in ((0, 1), (2, 3), (0, 3)):
            rows.append(
                {
                    "row": len(rows),
                    "prompt_ids": context,
                    "chosen_ids": answers[chosen],
                    "rejected_ids": answers[rejected],
                }
            )
    return rows[:count]


def _ids(rng: np.random.Generator, lengths: tuple[int, ...]) -> list[int]:
    length = int(np.interp(rng.random(), QUANTILES, lengths))
    return [int(i) for i in rng.integers(100, 40_000, length)]


def measured(side: str, stage: str, model: str) -> dict[str, float]:
    """Runs one measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", model, "--side", side, "--stage", stage]
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": THREADS},
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(side, stage, figures, file=sys.stderr)
    return figures


def compare(model: str, rounds: int) -> dict[str, Any]:
    """All four measurements, alternating, and their ratios."""
    order = [(side, stage) for stage in ("dpo", "sft") for side in ("trl", "ours")]
    order.append(("ours", "reference"))
    runs: dict[tuple[str, str], list[dict[str, float]]] = {each: [] for each in order}
    for _ in range(rounds):
        for side, stage in order:
            runs[side, stage].append(measured(side, stage, model))

    def middle(side: str, stage: str, figure: str) -> float:
        return median(run[figure] for run in runs[side, stage])

    ours = middle("ours", "dpo", "step_seconds") / BATCH
    reference = middle("ours", "reference", "reference_seconds_a_pair") / EPOCHS
    return {
        "dpo_speedup_vs_trl": middle("trl", "dpo", "step_seconds") / BATCH / (ours + reference),
        "dpo_peak_memory_ratio": middle("ours", "dpo", "peak_mib")
        / middle("trl", "dpo", "peak_mib"),
        "sft_speedup_vs_trl": middle("trl", "sft", "step_seconds")
        / middle("ours", "sft", "step_seconds"),
        "reference_increment_share": middle("ours", "reference", "reference_increment_share"),
        "runs": [{"side": s, "stage": t, **run} for (s, t), all_ in runs.items() for run in all_],
    }


class Stopwatch:
    """A trainer callback that times optimizer steps; the first one warms up."""

    def __init__(self) -> None:
        from transformers import TrainerCallback

        seconds: list[float] = []

        class Callback(TrainerCallback):  # type: ignore[misc]
            started = 0.0

            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.started = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                seconds.append(time.perf_counter() - self.started)

        self.callback, self.seconds = Callback(), seconds


def measure(side: str, stage: str, model: str) -> dict[str, float]:
    """One side of one stage: seconds an optimizer step, peak memory, and reference costs."""
    with tempfile.TemporaryDirectory() as folder:
        rows = pairs(BATCH * (STEPS + 1))
        make = _trl if side == "trl" else _ours
        trainer = make(stage, Path(model), rows, folder)
        watch = Stopwatch()
        trainer.add_callback(watch.callback)
        trainer.train()
        # The mean, since steps hold rows of unlike length; both sides see the same ones.
        return {"step_seconds": mean(watch.seconds[1:]), "peak_mib": peak_mib()}


def _trl(stage: str, model: Path, rows: list[dict[str, Any]], folder: str) -> Any:
    import trl
    from datasets import Dataset
    from transformers import AutoTokenizer

    from cosalign.training.whole_model import load_weights

    class Dpo(trl.DPOTrainer):  # type: ignore[misc]
        """TRL's own, but for tokenising: the rows are ids already."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    settings = {
        "output_dir": folder, "max_steps": STEPS + 1, "optim": "rmsprop", "learning_rate": 5e-7,
        "report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True,
        "logging_strategy": "no", "seed": 0, "data_seed": 0,
        "per_device_train_batch_size": MICRO_BATCH,
        "gradient_accumulation_steps": BATCH // MICRO_BATCH,
    }  # fmt: skip
    common = {
        "model": load_weights(model),
        "processing_class": AutoTokenizer.from_pretrained(model),
    }
    if stage == "dpo":
        data = Dataset.from_list([{k: v for k, v in row.items() if k != "row"} for row in rows])
        return Dpo(args=trl.DPOConfig(**settings), train_dataset=data, **common)
    chosen = [
        {
            "input_ids": row["prompt_ids"] + row["chosen_ids"],
            "completion_mask": [0] * len(row["prompt_ids"]) + [1] * len(row["chosen_ids"]),
        }
        for row in rows
    ]
    data = Dataset.from_list(chosen)
    return trl.SFTTrainer(args=trl.SFTConfig(**settings), train_dataset=data, **common)


def _ours(stage: str, model: Path, rows: list[dict[str, Any]], folder: str) -> Any:
    import pyarrow as pa

    from cosalign.domain.run_config import TrainingGroup
    from cosalign.training.dpo import dpo_trainer
    from cosalign.training.encode import Rows
    from cosalign.training.reference import REFERENCES
    from cosalign.training.sft import sft_trainer

    settings = {"max_steps": STEPS + 1, "batch_size": BATCH, "micro_batch_size": MICRO_BATCH}
    group = TrainingGroup.model_validate({"sft": settings, "dpo": settings})
    names = tuple(str(row["row"]) for row in rows)
    if stage == "sft":
        table = pa.Table.from_pylist(
            [
                {"row": r["row"], "prompt_ids": r["prompt_ids"], "answer_ids": r["chosen_ids"]}
                for r in rows
            ]
        )
        return sft_trainer(model, Rows(table, names, 0, 0), group, Path(folder), None)
    # The step's time does not depend on the figures; what they cost is measured apart.
    figures = {name: [-80.0] * len(rows) for name in REFERENCES}
    table = pa.table({**{name: [row[name] for row in rows] for name in rows[0]}, **figures})
    return dpo_trainer(model, Rows(table, names, 0, 0), group, Path(folder), None)


def measure_reference(model: str) -> dict[str, float]:
    """Seconds a pair of the reference pass, and what 5 % more rows cost of the first pass."""
    import pyarrow as pa

    from cosalign.domain.run_config import TrainingGroup
    from cosalign.inference.models import resolve_model
    from cosalign.store.storage import open_storage
    from cosalign.training.encode import Rows
    from cosalign.training.reference_scorer import reference_pass

    table = pa.Table.from_pylist(pairs(round(REFERENCE_PAIRS * 1.05)))
    names = tuple(map(str, range(table.num_rows)))
    with tempfile.TemporaryDirectory() as folder:
        start = resolve_model(model, Path(folder) / "cache")
        work = reference_pass(start, open_storage(f"{folder}/storage"), TrainingGroup())
        old = Rows(table.slice(0, REFERENCE_PAIRS), names, 0, 0)
        first, _ = timed(lambda: work.completed(old))
        more, _ = timed(lambda: work.completed(Rows(table, names, 0, 0)))
    return {
        "reference_seconds_a_pair": first / REFERENCE_PAIRS,
        # The second pass loads the model again: hours of a real first pass dwarf that.
        "reference_increment_share": more / first,
    }


def main() -> None:
    """Measures and publishes; with ``--side`` one measurement alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="models/smollm2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=("trl", "ours"))
    parser.add_argument("--stage", choices=("sft", "dpo", "reference"))
    asked = parser.parse_args()
    if asked.side:
        alone = asked.stage == "reference"
        publish(
            measure_reference(asked.model)
            if alone
            else measure(asked.side, asked.stage, asked.model)
        )
        return
    result = compare(asked.model, asked.rounds)
    versions = surroundings(("torch", "transformers", "trl", "accelerate"))
    publish(
        {
            "benchmark": "training",
            "threads": int(THREADS),
            "micro_batch_size": MICRO_BATCH,
            **result,
            **versions,
        }
    )


if __name__ == "__main__":
    main()
