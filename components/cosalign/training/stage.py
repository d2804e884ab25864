"""One training stage as a function from a model and rows to a stored model, done once.

A stage's result lies under the fingerprint of exactly what it depends on: the start model, the
token ids it trains on, and its own settings. So a changed DPO setting does not train SFT anew, and
a kill between the stages loses nothing. ``result.json`` is written last, after the model.

The SFT model is stored in fp32, because DPO starts from what is stored: weights of size 0.02 lie
8e-5 apart in bf16, so rounding would undo much of an SFT whose steps are 5e-7. What DPO leaves is
only served, so in mixed precision it is stored in bf16; an engine that computes in bf16 would round
the fp32 file to the same bits.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosalign.domain.errors import CosalignError, DataError
from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.inference.model_digest import TOKENIZER_FILES, file_hashes
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.inference.safety_template import export_template
from cosalign.runtime.logs import get_logger
from cosalign.training.checkpoints import CheckpointStore
from cosalign.training.outcome import Outcome, chosen_dev
from cosalign.training.provenance import training_provenance

if TYPE_CHECKING:
    from cosalign.domain.run_config import TrainerSettings, TrainingGroup
    from cosalign.store.storage import Storage
    from cosalign.training.encode import Rows
    from cosalign.training.finite_steps import RowObserver

SCHEME = 5
"""Raised when the same rows and settings would train another model."""

MANIFEST = "cosalign.json"
HISTORY = "history.jsonl"
_COPIED = (*TOKENIZER_FILES, "generation_config.json")

log = get_logger(__name__)


@dataclass(frozen=True)
class StageResult:
    """What a stage leaves.

    Attributes:
        model: Storage folder of the model.
        digest: The model's digest, as :class:`ModelFolder` has it.
        steps: Optimizer steps.
        changed: Share of the weights that differ from the start's in bf16.
        curve: One entry a step.
        kept_step: The step whose model this is: the last, or the best on the development split.
        dev: Figures on that split of the ``best`` and the ``last`` model; empty where none was
            measured.
        skipped: Batches left out for a loss or gradient that was not finite.
        best: Storage folder of the best model on that split, where ``model`` is the last and
            another; ``None`` where not.
    """

    model: str
    digest: str
    steps: int
    changed: float
    curve: list[dict[str, float]]
    kept_step: int
    dev: dict[str, dict[str, float]]
    skipped: int
    best: str | None = None


@dataclass(frozen=True)
class Stage:
    """What a stage depends on, and where it works.

    Attributes:
        name: ``sft`` or ``dpo``.
        start: The model it starts from.
        rows: What it trains on.
        group: The run's training settings.
        storage: Where results and checkpoints lie.
        cache: A local folder with room for a model.
        observer: Told the rows of every micro batch.
        dev: The development split's rows; ``None`` or empty where there are none.
        reference: The model that DPO's log-probabilities are held against; the start where it is
            not given. Another one makes the stage an increment's: it goes on from a trained model,
            and its weights are rounded as :mod:`cosalign.training.rounding` says.
    """

    name: str
    start: ModelFolder
    rows: Rows
    group: TrainingGroup
    storage: Storage
    cache: Path
    observer: RowObserver | None = None
    dev: Rows | None = None
    reference: ModelFolder | None = None

    @property
    def settings(self) -> TrainerSettings:
        """The stage's own settings."""
        return self.group.dpo if self.name == "dpo" else self.group.sft

    @property
    def recipe(self) -> dict[str, Json]:
        """The settings that change what is learnt. How often is saved does not."""
        lora = {"lora": self.group.lora.model_dump(mode="json")} if self.group.lora else {}
        return {
            **self.settings.identity(),
            "optimizer": self.group.optimizer,
            "precision": self.group.precision,
            "seed": self.group.seed,
            **lora,
        }

    @property
    def folder(self) -> str:
        """Storage folder of the result, of the history, and of all that leads to them."""
        return f"training/{self.name}/{self.fingerprint}"

    @property
    def result_path(self) -> str:
        """What is written last."""
        return f"{self.folder}/result.json"

    @property
    def work(self) -> Path:
        """A local folder, named after the stage: what a kill left there goes when it runs again."""
        return self.cache / "training" / self.fingerprint[:32]

    @property
    def fingerprint(self) -> str:
        """Identity of the result, 64 hex digits."""
        return fingerprint(
            "training stage",
            {
                "scheme": SCHEME,
                "stage": self.name,
                "start": self.start.digest,
                "rows": self.rows.digest,
                "dev": None if self.measured is None else self.measured.digest,
                "recipe": self.recipe,
                # Left out where it is the start, so that full runs keep their identity.
                **({} if self.reference is None else {"reference": self.reference.digest}),
            },
        )

    @property
    def measured(self) -> Rows | None:
        """The rows of the development split that are measured; ``None`` where none are.

        Raises:
            DataError: The best model is asked for, and there is nothing to tell it by.
        """
        if self.settings.eval_steps is None:
            return None
        if self.dev is None or not self.dev.table.num_rows:
            if self.settings.keep == "best":
                raise DataError(
                    f"training.{self.name}.keep is best, and the development split has no "
                    f"{self.name} rows to tell it by; raise prompts.dev_share, or keep the last"
                )
            return None
        table = chosen_dev(self.dev.table, self.settings.eval_rows, self.group.seed)
        return replace(self.dev, table=table)


def run_stage(stage: Stage) -> StageResult:
    """Trains, in as many processes as asked for, or finds the model already trained."""
    result = _stored_result(stage)
    shutil.rmtree(stage.work, ignore_errors=True)
    if result is not None:
        log.info("stage_reused", stage=stage.name, model=result.digest[:12], steps=result.steps)
    else:
        stage.work.mkdir(parents=True)
        try:
            result = _trained_by_all(stage)
        finally:
            shutil.rmtree(stage.work, ignore_errors=True)
    CheckpointStore(stage.storage, f"{stage.folder}/checkpoints", stage.work).clear()
    return result


def _trained_by_all(stage: Stage) -> StageResult:
    from cosalign.training.launch import launched, processes_of

    if stage.group.backend == "train_job":
        from cosalign.training.stage_job import trained_by_job

        trained_by_job(stage)
    elif (processes := processes_of(stage.group)) == 1:
        train_stage(stage)
    else:
        launched(stage, processes)
    result = _stored_result(stage)
    if result is None:
        raise CosalignError(f"the {stage.name} stage ended and left no result; this is a defect")
    return result


def _stored_result(stage: Stage) -> StageResult | None:
    storage, path = stage.storage, stage.result_path
    if storage.stat(path) is None:
        return None
    try:
        result = StageResult(**json.loads(storage.read_bytes(path)))
    except (ValueError, TypeError) as problem:
        raise DataError(
            f"{storage.uri_of(path)}: not a stage's result ({problem}); delete it and run again"
        ) from None
    models = [model for model in (result.model, result.best) if model is not None]
    there = all(storage.stat(f"{model}/{MANIFEST}") is not None for model in models)
    return result if there else None


def train_stage(stage: Stage) -> None:
    """Trains as one of the processes that do; the first of them stores model and result.

    Raises:
        ConfigError: The memory of a GPU does not suffice.
    """
    from cosalign.training.out_of_memory import lack_of_memory_named
    from cosalign.training.ranks import this_process
    from cosalign.training.resuming import best_beside, train
    from cosalign.training.stage_history import StageHistory
    from cosalign.training.trainers import free_memory, quiet_libraries

    stage = _recomputing_where_needed(stage)
    checkpoints = _checkpoints(stage)
    with quiet_libraries(), lack_of_memory_named(stage.name):
        trainer = stage_trainer(stage, checkpoints.folder)
        history = StageHistory(stage.storage, f"{stage.folder}/{HISTORY}")
        model = train(trainer, stage, checkpoints, history)
        outcome = Outcome.of(trainer.state, stage.settings.keep)
        digest = _store_model(stage, model, outcome) if model is not None else ""
        # One whole model at a time.
        del model
        model = best_beside(trainer, stage, checkpoints)
        best = None if model is None else _store_best(stage, model, outcome)
    # The next stage needs the room of this one's weights and optimizer.
    del trainer, model
    free_memory()
    if digest:
        _store_result(stage, digest, outcome, best)
    this_process().wait()


def _recomputing_where_needed(stage: Stage) -> Stage:
    from cosalign.training.ranks import this_process
    from cosalign.training.recomputation import gpu_memory_gib, with_recomputation_decided

    world, memory = this_process().world, gpu_memory_gib()
    group = with_recomputation_decided(stage.group, stage.start.path, world, memory)
    return replace(stage, group=group)


def _checkpoints(stage: Stage) -> CheckpointStore:
    """Sharded checkpoints are of another form, and no start for a whole model, nor the reverse."""
    from cosalign.training.nodes import Nodes
    from cosalign.training.ranks import this_process
    from cosalign.training.world import shards

    ranks, kept = this_process(), stage.settings.keep_checkpoints
    form = "checkpoints/sharded" if shards(stage.group, ranks) else "checkpoints"
    prefix, together = f"{stage.folder}/{form}", Nodes(ranks).together
    return CheckpointStore(stage.storage, prefix, stage.work, kept, together)


def _store_result(stage: Stage, digest: str, outcome: Outcome, best: str | None) -> None:
    from cosalign.training.weight_change import changed_share

    changed = changed_share(stage.start.path, stage.work / "model")
    log.info(
        "stage_trained",
        stage=stage.name,
        model=digest[:12],
        changed=round(changed, 4),
        steps=outcome.steps,
        kept_step=outcome.kept_step,
        skipped=outcome.skipped,
    )
    result = StageResult(f"models/{digest}", digest, changed=changed, best=best, **asdict(outcome))
    document = json.dumps(asdict(result), sort_keys=True).encode()
    stage.storage.write_bytes(stage.result_path, document)


def stage_trainer(stage: Stage, folder: Path) -> Any:
    """A stage's trainer, ready to train; its reference log-probabilities are paid for by now."""
    from cosalign.training.dpo import dpo_trainer, reached
    from cosalign.training.sft import sft_trainer

    rows, dev, make = stage.rows, stage.measured, sft_trainer
    if stage.name == "dpo":
        make = dpo_trainer
        dpo, seed = stage.group.dpo, stage.group.seed
        table = reached(rows.table, dpo.max_steps, dpo.batch_size, seed)
        rows = _with_references(stage, replace(rows, table=table))
        dev = dev and _with_references(stage, dev)
    return make(stage.start.path, rows, stage.group, folder, stage.observer, dev)


def _with_references(stage: Stage, rows: Rows) -> Rows:
    from cosalign.training.reference_scorer import reference_pass

    model = stage.reference or stage.start
    found = reference_pass(model, stage.storage, stage.group).completed(rows)
    return replace(rows, table=found)


def _store_best(stage: Stage, model: Any, outcome: Outcome) -> str:
    """Stores the best model beside the one that the stage leaves, and gives its storage folder."""
    step = int(outcome.dev["best"]["step"])
    digest = _store_model(stage, model, replace(outcome, kept_step=step), "best")
    shutil.rmtree(stage.work / "best")
    log.info("best_model_stored", stage=stage.name, model=digest[:12], step=step)
    return f"models/{digest}"


def _store_model(stage: Stage, model: Any, outcome: Outcome, name: str = "model") -> str:
    """Stores the model as ``models/<digest>``, by way of a local folder; gives the digest."""
    import torch

    from cosalign.training.rounding import round_at_random
    from cosalign.training.trainers import full_disk_named

    folder = stage.work / name
    rounded = stage.name == "dpo" and stage.group.precision == "bf16"
    if rounded and stage.reference is not None:
        round_at_random(model, stage.fingerprint)
    with full_disk_named(stage.work):
        model.to(torch.bfloat16 if rounded else torch.float32).save_pretrained(str(folder))
    # Byte for byte the base model's, so that the tokenizer's digest stays what it was; the exported
    # template is counted as the one it was made from.
    for file in _COPIED:
        if (stage.start.path / file).is_file():
            shutil.copyfile(stage.start.path / file, folder / file)
    if not export_template(folder):
        log.warning("no_template_argument", stage=stage.name, start=stage.start.digest[:12])
    digest = resolve_model(str(folder), stage.cache).digest
    stage.storage.upload_tree(folder, f"models/{digest}")
    manifest = _manifest(stage, outcome, digest, folder)
    stage.storage.write_bytes(f"models/{digest}/{MANIFEST}", manifest)
    return digest


def _manifest(stage: Stage, outcome: Outcome, digest: str, folder: Path) -> bytes:
    document = {
        "digest": digest,
        "stage": stage.name,
        "start": stage.start.digest,
        "reference": (stage.reference or stage.start).digest,
        "rows": {"digest": stage.rows.digest, "count": stage.rows.table.num_rows},
        "recipe": stage.recipe,
        "steps": outcome.steps,
        "kept_step": outcome.kept_step,
        "dev": outcome.dev,
        "skipped_batches": outcome.skipped,
        "files": file_hashes(folder, stage.cache),
        **training_provenance(),
    }
    return f"{json.dumps(document, indent=2, sort_keys=True)}\n".encode()
