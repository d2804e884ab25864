"""General ability: tasks of lm-evaluation-harness as suites, one row a document.

What alignment may not cost. A document's own score stands in the evaluation table, so the change
against the base is paired by document like any other difference, with its interval. The tasks know
no config, so systems that share a model share their rows' figures, and nothing is asked twice.

A document's score is the first metric that its task lists, under the task's first filter, where
that is a number from 0 to 1 for one document (accuracy, exact match). Tasks whose metrics exist
only for whole corpora (perplexity, BLEU) are refused by name. A document with a request that the
engine left unanswered has no score, whatever the harness made of it (law 4).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cosalign.domain.errors import ConfigError, nearest
from cosalign.domain.fingerprint import Json, content_sha256, row_id
from cosalign.domain.prompt_types import FREEFORM
from cosalign.domain.run_config.suites import GeneralSettings
from cosalign.evaluation.answers import System
from cosalign.evaluation.item_table import GENERAL
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import Storage, tree_files

PACKAGE = "lm-eval"
METHODS = ("plain", "config")
FEWSHOT_SEED = 1234
Row = dict[str, Any]


@dataclass(frozen=True)
class GeneralTasks:
    """The general tasks of a run.

    Attributes:
        settings: Which, and how.
        host: Where engines run.
        storage: The storage root.
    """

    settings: GeneralSettings
    host: EngineHost
    storage: Storage

    def rows(self, systems: Iterable[System]) -> list[Row]:
        """Rows of ``EVALUATION`` of systems that share a model.

        Raises:
            ConfigError: There is no such task, or it scores no single documents.
        """
        asked = [system for system in systems if self._is_asked(system)]
        if not asked:
            return []
        scores = list(self._scores(asked[0].model))
        return [{**row, "system": system.name} for system in asked for row in scores]

    def _is_asked(self, system: System) -> bool:
        if self.settings.systems is not None:
            return system.name in self.settings.systems
        return system.settings.method in METHODS

    def _scores(self, model: ModelFolder) -> Iterator[Row]:
        for task in self.settings.tasks:
            asked = self._adapter(model)
            for leaf, score, samples in _evaluated(self.settings, task, asked):
                for sample in samples:
                    known = (leaf, sample["doc_id"]) not in asked.unanswered
                    yield _row(task, leaf, sample, float(sample[score]) if known else None)

    def _adapter(self, model: ModelFolder) -> Any:
        _silence()
        from cosalign.evaluation.harness_model import HarnessModel

        return HarnessModel(self.host, self.storage, model)


def general_identity(settings: GeneralSettings | None) -> Json:
    """What general figures depend on: the tasks, the harness's version, and tasks of one's own.

    Raises:
        ConfigError: The harness is not installed.
    """
    if settings is None:
        return None
    try:
        installed = version(PACKAGE)
    except PackageNotFoundError:
        raise ConfigError(
            "evaluation.general needs lm-evaluation-harness; "
            "pip install 'cosalign[evaluation-general]', or leave it out"
        ) from None
    files = [
        Path(folder) / file for folder in settings.include for file in tree_files(Path(folder))
    ]
    own: list[Json] = [
        content_sha256(file.read_bytes()) for file in files if "__pycache__" not in file.parts
    ]
    return [settings.model_dump(mode="json", exclude={"include"}), installed, own]


def general_configs(rows: Iterable[Row]) -> list[Row]:
    """Rows of ``EVALUATED_CONFIGS``: each task that was asked, under no config."""
    tasks = sorted({(row["suite"], row["config"]) for row in rows})
    return [
        {"config": config, "suite": suite, "kind": "none", "config_id": None, "digest": None,
         "allowed_mask": None, "seen": None, "names": [config], "regions": []}
        for suite, config in tasks
    ]  # fmt: skip


def _evaluated(
    settings: GeneralSettings, task: str, model: Any
) -> Iterator[tuple[str, str, list[Row]]]:
    """Leaf tasks of a task, the name of their score, and their documents in order."""
    from lm_eval.evaluator import evaluate

    loaded = _loaded(settings, task)
    leaves = loaded["tasks"]
    scores = {name: _score_name(name, leaf) for name, leaf in leaves.items()}
    found = evaluate(
        lm=model,
        task_dict=loaded,
        limit=settings.limit,
        bootstrap_iters=0,
        apply_chat_template=settings.chat,
        fewshot_as_multiturn=settings.chat,
    )
    for name in sorted(leaves):
        samples = found["samples"][name]
        filtered = samples[0]["filter"] if samples else ""
        own = [sample for sample in samples if sample["filter"] == filtered]
        yield name, scores[name], sorted(own, key=lambda sample: int(sample["doc_id"]))


@cache
def _manager(include: tuple[str, ...], *, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(include) or None, include_defaults=defaults)


def _loaded(settings: GeneralSettings, task: str) -> Any:
    # The harness's own tasks are thousands of files; one's own need none of them.
    manager = _manager(settings.include, defaults=False)
    if task not in manager.all_tasks:
        manager = _manager(settings.include, defaults=True)
    if task not in manager.all_tasks:
        raise ConfigError(
            f"evaluation.general.tasks: lm-evaluation-harness knows no {task!r}"
            f"{nearest(task, manager.all_tasks)}"
        )
    with _explained(task):
        loaded = manager.load([task])
    for leaf in loaded["tasks"].values():
        if settings.fewshot is not None:
            leaf.set_config(key="num_fewshot", value=settings.fewshot)
        leaf.set_fewshot_seed(seed=FEWSHOT_SEED)
    return loaded


def _explained(task: str) -> Any:
    from cosalign.store.hub_datasets import explained

    return explained(_TaskData(hub=f"of task {task}"))


@dataclass(frozen=True)
class _TaskData:
    """A task's dataset, as messages name it; where it lies is the task's own affair."""

    hub: str | None
    mirror: str | None = None
    revision: str | None = None


def _score_name(name: str, leaf: Any) -> str:
    metrics = [str(entry["metric"]) for entry in leaf.config.metric_list or []]
    aggregations = leaf.aggregation()
    first = next((metric for metric in metrics if metric in aggregations), None)
    mean = first is not None and getattr(aggregations[first], "__name__", "") == "mean"
    if first is None or not mean:
        raise ConfigError(
            f"evaluation.general.tasks: {name} scores no single documents (its metrics: "
            f"{', '.join(metrics) or 'none'}); choose a task with accuracy or exact match"
        )
    return first


def _row(task: str, leaf: str, sample: Row, score: float | None) -> Row:
    return {
        "suite": f"{GENERAL}{task}",
        "config": leaf,
        "prompt_id": row_id("general document", [leaf, sample["doc_id"], sample["doc_hash"]]),
        "response_id": None,
        "prompt_type": FREEFORM,
        "split": None,
        "risk_mask": 0,
        "known_mask": 0,
        "h": score,
        "s": None if score is None else 1,
    }


def _silence() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
