"""The step on the engine double: its tables, what a kill costs, what a changed setting redoes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cosalign.domain.errors import ConfigError, DataError, EngineUnavailable, StorageUnavailable
from cosalign.domain.run_config import EngineGroup, RunConfig
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.inference.double import DoubleEngine
from cosalign.inference.engine import Generation, GenerationRequest, Labelling, LabelRequest
from cosalign.inference.models import ModelFolder
from cosalign.runtime.step import StepManifest, run_step
from cosalign.store.erasure_plan import Selection, plan_erasure
from cosalign.store.erasures import Erasure, erase
from cosalign.store.ledger import Ledger
from cosalign.store.storage import open_storage
from cosalign.store.tables import read_table
from cosalign.synthesis.step import SynthesisStep

TAXONOMY = load_taxonomy("cosa", "1")
FLUSH = 4
REGIONS = Path(__file__).parents[2] / "manifests" / "safety-configs"
SUBJECTS = (
    "old roses", "dark beer", "long swords", "poker odds", "apple trees", "wheat ale",
    "fencing masks", "lottery tickets", "tomato beds", "cider presses", "duelling rules",
    "horse races",
)  # fmt: skip
QUESTIONS = ("What should a beginner know about {}?", "Who first wrote a book on {}?")
PROMPTS = [question.format(subject) for subject in SUBJECTS for question in QUESTIONS]


class Meter:
    """Opens engine doubles, counts the requests that they answer, and fails when told to."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.starts = 0
        self.fails_after: int | None = None

    def open(self, model: ModelFolder, settings: EngineGroup) -> MeteredEngine:
        self.starts += 1
        return MeteredEngine(self, model, settings.max_model_len)

    def count(self, kind: str) -> None:
        if self.fails_after is not None and self.answered.total() >= self.fails_after:
            raise EngineUnavailable("the engine went away")
        self.answered[kind] += 1


class MeteredEngine(DoubleEngine):
    def __init__(self, meter: Meter, model: ModelFolder, max_model_len: int) -> None:
        super().__init__(model.digest, max_model_len)
        self._meter = meter

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[Generation]:
        for answer in super().generate(requests):
            self._meter.count("responses")
            yield answer

    def label(self, requests: Iterable[LabelRequest]) -> Iterator[Labelling]:
        for answer in super().label(requests):
            self._meter.count("labels")
            yield answer


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    made = Meter()
    monkeypatch.setattr("cosalign.inference.engine_host.open_engine", made.open)
    return made


def write_prompts(path: Path, prompts: Sequence[str]) -> Path:
    path.write_text("".join(f"{json.dumps({'prompt': p})}\n" for p in prompts), encoding="utf-8")
    return path


def settings(root: Path, changes: Mapping[str, object] | None = None) -> RunConfig:
    """A small run; ``changes`` name single values as ``group.key``."""
    prompts = root / "prompts.jsonl"
    if not prompts.exists():
        write_prompts(prompts, PROMPTS)
    plain: dict[str, Any] = {
        "storage": {"root": str(root / "out"), "cache": str(root / "cache")},
        "models": {
            "base": "double:base",
            "judge": "double:judge",
            "engine": {"kind": "double", "max_model_len": 16384, "flush_rows": FLUSH},
        },
        "prompts": {"files": (str(prompts),), "max_tokens": 100},
        "synthesis": {"generators": ({"superset": 1, "max_tokens": 12},)},
    }
    for name, value in (changes or {}).items():
        *groups, key = name.split(".")
        node = plain
        for group in groups:
            node = node.setdefault(group, {})
        node[key] = value
    return RunConfig.model_validate(plain)


def run(root: Path, changes: Mapping[str, object] | None = None) -> tuple[StepManifest, bool]:
    return run_step(SynthesisStep(), settings(root, changes), {})


def rows(root: Path, manifest: StepManifest, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_table(
        open_storage(str(root / "out")), manifest.tables[name]
    ).to_pylist()
    return found


def table_bytes(root: Path, manifest: StepManifest) -> dict[str, bytes]:
    storage = open_storage(str(root / "out"))
    return {name: storage.read_bytes(ref.path) for name, ref in manifest.tables.items()}


def lasting_counts(manifest: StepManifest) -> dict[str, int]:
    """Counts that are a function of the fingerprint, not of what this attempt paid for."""
    return {
        name: count
        for name, count in manifest.counts.items()
        if not name.endswith("_made") and name != "engine_starts"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StepManifest]:
    """An undisturbed run, made once; tests only read it."""
    root = tmp_path_factory.mktemp("finished")
    return root, run(root)[0]


Finished = tuple[Path, StepManifest]


def test_the_tables_hang_together(finished: Finished) -> None:
    root, manifest = finished
    prompts = {row["prompt_id"]: row for row in rows(root, manifest, "prompts")}
    configs = {row["config_id"]: row for row in rows(root, manifest, "configs")}
    draws, responses = rows(root, manifest, "draws"), rows(root, manifest, "responses")
    train = {i for i, row in prompts.items() if row["split"] == "train"}
    assert len(train) >= 3
    assert {row["text"] for row in prompts.values()} == set(PROMPTS)
    assert {d["prompt_id"] for d in draws} == train
    assert {d["config_id"] for d in draws} <= set(configs)
    used = {r["config_id"] for r in responses if r["config_id"]}
    assert used <= set(configs)
    assert set(configs) == used | {d["config_id"] for d in draws}
    assert all(row["allowed_mask"] & TAXONOMY.catch_all == 0 for row in configs.values())
    assert Counter(r["prompt_id"] for r in responses) == dict.fromkeys(train, 3)
    for prompt_id in train:
        assert prompts[prompt_id]["known_mask"] == TAXONOMY.full_mask
        assert prompts[prompt_id]["risk_mask"] & TAXONOMY.catch_all == 0
    for draw in draws:
        mask, allowed = prompts[draw["prompt_id"]]["risk_mask"], draw["allowed_mask"]
        follows = {
            "exact": allowed == mask,
            "superset": allowed & mask == mask,
            "safe": allowed == 0,
            "not_superset": allowed & mask != mask or mask == allowed == 0,
        }
        assert follows[draw["mode"]]


def test_the_tables_are_sorted_and_ids_stand_once(finished: Finished) -> None:
    root, manifest = finished
    for name, key in (("prompts", "prompt_id"), ("configs", "config_id"),
                      ("responses", "response_id")):  # fmt: skip
        ids = [row[key] for row in rows(root, manifest, name)]
        assert ids == sorted(set(ids))


def test_the_counts_add_up(finished: Finished) -> None:
    root, manifest = finished
    counts = manifest.counts
    splits = Counter(row["split"] for row in rows(root, manifest, "prompts"))
    assert {name: counts.get(f"split_{name}", 0) for name in splits} == dict(splits)
    assert splits.total() == counts["prompts_kept"] == len(PROMPTS)
    assert splits["dropped"] == counts.get("prompts_outside_pool", 0)
    assert counts["labels_made"] == len(PROMPTS)
    responses = manifest.tables["responses"].rows
    assert counts["responses_made"] == responses
    finishes = [n for name, n in counts.items() if name.startswith("responses_finished_")]
    assert sum(finishes) == responses
    assert counts["engine_starts"] == 2


def test_a_second_run_starts_no_engine(finished: Finished, meter: Meter) -> None:
    root, manifest = finished
    assert run(root) == (manifest, True)
    assert meter.starts == 0


def test_another_root_makes_the_same_bytes(finished: Finished, tmp_path: Path) -> None:
    other, _ = run(tmp_path)
    assert other.fingerprint == finished[1].fingerprint
    assert table_bytes(tmp_path, other) == table_bytes(*finished)


KILLS = ("first answer", "first flush", "amid labels", "last label", "amid responses", "last")


def kill_at(name: str, manifest: StepManifest) -> int:
    labels, responses = manifest.counts["labels_made"], manifest.counts["responses_made"]
    places = (
        0,
        FLUSH,
        labels // 2 + 1,
        labels - 1,
        labels + responses // 2,
        labels + responses - 1,
    )
    return dict(zip(KILLS, places, strict=True))[name]


@pytest.mark.parametrize("name", KILLS)
def test_a_run_that_loses_its_engine_resumes_where_it_was(
    finished: Finished, tmp_path: Path, meter: Meter, name: str
) -> None:
    _, undisturbed = finished
    meter.fails_after = kill_at(name, undisturbed)
    with pytest.raises(EngineUnavailable):
        run(tmp_path)
    assert meter.answered.total() == meter.fails_after
    meter.fails_after = None
    resumed, reused = run(tmp_path)
    assert not reused
    # What the first attempt was answered is not asked for again.
    assert meter.answered == {
        "labels": undisturbed.counts["labels_made"],
        "responses": undisturbed.counts["responses_made"],
    }
    assert resumed.fingerprint == undisturbed.fingerprint
    assert table_bytes(tmp_path, resumed) == table_bytes(*finished)
    assert lasting_counts(resumed) == lasting_counts(undisturbed)


def failing_append(after: int) -> Callable[..., None]:
    append, calls = Ledger.append, iter(range(1_000_000))

    def fails(self: Ledger, batch: Sequence[Mapping[str, Any]]) -> None:
        if next(calls) >= after:
            raise StorageUnavailable("the object store did not answer")
        append(self, batch)

    return fails


@pytest.mark.parametrize("flushes", [0, 2, 8])
def test_a_run_that_loses_its_storage_pays_one_batch_again(
    finished: Finished,
    tmp_path: Path,
    meter: Meter,
    monkeypatch: pytest.MonkeyPatch,
    flushes: int,
) -> None:
    _, undisturbed = finished
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", failing_append(flushes))
        with pytest.raises(StorageUnavailable):
            run(tmp_path)
    resumed, _ = run(tmp_path)
    once = undisturbed.counts["labels_made"] + undisturbed.counts["responses_made"]
    assert 0 < meter.answered.total() - once <= FLUSH
    assert table_bytes(tmp_path, resumed) == table_bytes(*finished)


def test_a_lost_table_is_written_again_without_an_engine(tmp_path: Path, meter: Meter) -> None:
    first, _ = run(tmp_path)
    before, starts = table_bytes(tmp_path, first), meter.starts
    (tmp_path / "out" / first.tables["draws"].path).unlink()
    again, reused = run(tmp_path)
    assert not reused
    assert meter.starts == starts
    assert table_bytes(tmp_path, again) == before
    assert (again.counts["labels_made"], again.counts["responses_made"]) == (0, 0)


UNTOUCHED: list[dict[str, object]] = [
    {"pairing.seed": 7},
    {"pairing.beta": 50},
    {"training.seed": 3},
    {"evaluation.max_tokens": 9},
    {"scoring.thresholds": {"violence": 0.9}},
    {"models.engine.flush_rows": 99},
    {"configs.files": (str(REGIONS),)},
]


@pytest.mark.parametrize("change", UNTOUCHED, ids=lambda change: next(iter(change)))
def test_settings_of_other_steps_do_not_touch_it(
    finished: Finished, meter: Meter, change: dict[str, object]
) -> None:
    assert run(finished[0], change) == (finished[1], True)


def test_a_threshold_that_moves_no_label_asks_no_engine(tmp_path: Path, meter: Meter) -> None:
    first, _ = run(tmp_path)
    starts = meter.starts
    moved, reused = run(tmp_path, {"scoring.threshold": 0.5 + 1e-9})
    assert not reused
    assert moved.fingerprint != first.fingerprint
    assert meter.starts == starts
    assert table_bytes(tmp_path, moved) == table_bytes(tmp_path, first)


def test_a_threshold_that_moves_labels_judges_nothing_anew(tmp_path: Path, meter: Meter) -> None:
    first, _ = run(tmp_path)
    labels = meter.answered["labels"]
    moved, _ = run(tmp_path, {"scoring.prompt_thresholds": dict.fromkeys(TAXONOMY.names, 0.9)})
    assert meter.answered["labels"] == labels
    assert moved.counts["labels_made"] == 0
    before = {row["prompt_id"]: row["risk_mask"] for row in rows(tmp_path, first, "prompts")}
    after = {row["prompt_id"]: row["risk_mask"] for row in rows(tmp_path, moved, "prompts")}
    assert all(after[i] & before[i] == after[i] for i in before)
    assert after != before


def test_longer_responses_are_made_anew_and_labels_are_not(tmp_path: Path, meter: Meter) -> None:
    first, _ = run(tmp_path)
    longer, _ = run(tmp_path, {"synthesis.generators": ({"superset": 1, "max_tokens": 13},)})
    assert longer.counts["labels_made"] == 0
    assert longer.counts["responses_made"] == longer.tables["responses"].rows
    assert meter.answered["labels"] == first.counts["labels_made"]
    assert longer.tables["prompts"].sha256 == first.tables["prompts"].sha256
    assert longer.tables["draws"].sha256 == first.tables["draws"].sha256


def test_one_more_response_costs_only_itself(tmp_path: Path, meter: Meter) -> None:
    first, _ = run(tmp_path)
    more, _ = run(tmp_path, {"synthesis.generators": ({"superset": 2, "max_tokens": 12},)})
    train = first.counts["split_train"]
    assert more.counts["responses_made"] == train
    assert more.tables["responses"].rows == first.tables["responses"].rows + train


def test_more_prompts_cost_only_themselves(tmp_path: Path, meter: Meter) -> None:
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS[:14])
    first, _ = run(tmp_path)
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    grown, _ = run(tmp_path)
    assert first.counts["labels_made"] == 14
    assert grown.counts["labels_made"] == len(PROMPTS) - 14
    assert (
        grown.counts["responses_made"]
        == grown.tables["responses"].rows - first.tables["responses"].rows
    )


def test_reordered_prompts_make_the_same_tables(
    finished: Finished, tmp_path: Path, meter: Meter
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS[::-1])
    assert table_bytes(tmp_path, run(tmp_path)[0]) == table_bytes(*finished)


def test_a_file_held_out_is_no_file_trained_on(tmp_path: Path, meter: Meter) -> None:
    files = [
        str(write_prompts(tmp_path / f"{name}.jsonl", part))
        for name, part in (("a", PROMPTS[:16]), ("b", PROMPTS[16:]))
    ]
    both, _ = run(tmp_path, {"prompts.files": tuple(files)})
    held, reused = run(
        tmp_path, {"prompts.files": (files[0],), "prompts.held_out_files": (files[1],)}
    )
    assert not reused
    assert (both.tables["prompts"].rows, held.tables["prompts"].rows) == (len(PROMPTS), 16)


def test_two_generators_of_one_model_share_what_is_equal(tmp_path: Path, meter: Meter) -> None:
    twins = tuple({"name": name, "max_tokens": 12, "plain": 2} for name in ("one", "two"))
    manifest, _ = run(tmp_path, {"synthesis.generators": twins})
    table = rows(tmp_path, manifest, "responses")
    assert len({row["response_id"] for row in table}) == len(table)
    assert {row["generator"] for row in table if row["config_id"] is None} == {"one"}
    assert {row["generator"] for row in table if row["config_id"]} == {"one", "two"}
    assert manifest.counts["responses_made"] == len(table) == meter.answered["responses"]


def test_each_model_is_started_once(tmp_path: Path, meter: Meter) -> None:
    generators = (
        {"name": "first", "model": "double:helpful"},
        {"name": "again", "model": "double:helpful", "max_tokens": 9},
    )
    manifest, _ = run(tmp_path, {"synthesis.generators": generators})
    assert manifest.counts["engine_starts"] == meter.starts == 2


def test_training_risks_bound_labels_and_configs(tmp_path: Path, meter: Meter) -> None:
    risks = TAXONOMY.names[:5]
    manifest, _ = run(tmp_path, {"synthesis.training_risks": risks, "prompts.held_out_share": 0.0})
    pool = TAXONOMY.mask_of(risks)
    train = [row for row in rows(tmp_path, manifest, "prompts") if row["split"] == "train"]
    assert train
    assert all(row["risk_mask"] & ~pool == 0 for row in train)
    assert all(c["allowed_mask"] & ~pool == 0 for c in rows(tmp_path, manifest, "configs"))
    assert "split_held_out" not in manifest.counts


def test_labels_that_are_all_unknown_leave_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no prompt is left to train on.*unlabelled"):
        run(tmp_path, {"scoring.min_label_mass": 1.0})


def test_a_context_too_short_for_the_rubric_leaves_labels_unknown(
    tmp_path: Path, meter: Meter
) -> None:
    with pytest.raises(DataError, match="no prompt is left to train on"):
        run(tmp_path, {"models.engine.max_model_len": 64})
    # Nothing failed is taken for stored: a longer context asks for every label again.
    longer, _ = run(tmp_path)
    assert longer.counts["labels_made"] == len(PROMPTS)


def test_generators_that_owe_nothing_are_refused(tmp_path: Path) -> None:
    nothing = ({"plain": 0, "superset": 0, "not_superset": 0},)
    with pytest.raises(DataError, match="owe no response"):
        run(tmp_path, {"synthesis.generators": nothing})


def test_dev_prompts_are_drawn_for_as_train_prompts_are(tmp_path: Path, meter: Meter) -> None:
    manifest, _ = run(tmp_path, {"prompts.dev_share": 0.7, "prompts.held_out_share": 0.0})
    split = {row["prompt_id"]: row["split"] for row in rows(tmp_path, manifest, "prompts")}
    for name in ("train", "dev"):
        own = {i for i, found in split.items() if found == name}
        assert own
        assert len(own) == manifest.counts[f"split_{name}"]
        for table in ("draws", "responses"):
            assert own <= {row["prompt_id"] for row in rows(tmp_path, manifest, table)}


def test_the_benchmark_is_never_trained_on(tmp_path: Path, meter: Meter) -> None:
    first, _ = run(tmp_path)
    held = [{"allowed": [], "risks": [], "prompt": text.upper()} for text in PROMPTS[:5]]
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_text("".join(f"{json.dumps(row)}\n" for row in held))
    second, reused = run(tmp_path, {"evaluation.benchmark": str(benchmark)})
    assert not reused
    assert {row["text"] for row in rows(tmp_path, second, "prompts")} == set(PROMPTS[5:])
    assert second.counts["contaminated_exact[benchmark.jsonl]"] == 5
    assert first.tables["prompts"].rows - second.tables["prompts"].rows == 5


def test_a_licence_that_forbids_the_use_stops_also_a_finished_step(
    tmp_path: Path, meter: Meter
) -> None:
    allowed = {"prompts.licence": "cc-by-nc-4.0"}
    first, _ = run(tmp_path, allowed)
    with pytest.raises(ConfigError, match=r"cc-by-nc-4\.0 forbids prompts\.use: commercial"):
        run(tmp_path, {**allowed, "prompts.use": "commercial"})
    assert {row["licence"] for row in rows(tmp_path, first, "prompts")} == {"cc-by-nc-4.0"}
    own = {"prompts.licence": "own"}
    research, _ = run(tmp_path, own)
    assert run(tmp_path, {**own, "prompts.use": "commercial"}) == (research, True)


def review(root: Path, manifest: StepManifest) -> list[dict[str, Any]]:
    data = open_storage(str(root / "out")).read_bytes(manifest.files["prompt_review"])
    return [json.loads(line) for line in data.decode().splitlines()]


def test_labels_come_with_probabilities_coverage_and_a_list_to_review(finished: Finished) -> None:
    root, manifest = finished
    labels = rows(root, manifest, "prompt_labels")
    prompts = {row["prompt_id"]: row for row in rows(root, manifest, "prompts")}
    assert [row["prompt_id"] for row in labels] == sorted(prompts)
    for row in labels:
        own = prompts[row["prompt_id"]]
        assert (row["risk_mask"], row["known_mask"]) == (own["risk_mask"], own["known_mask"])
        for bit, probability in enumerate(row["risk_probability"]):
            assert (probability >= 0.5) == bool(row["risk_mask"] >> bit & 1)
    known = sum(row["known_mask"] == TAXONOMY.full_mask for row in labels)
    assert manifest.metrics["label_coverage"] == round(known / len(labels), 6)
    listed = review(root, manifest)
    assert {row["prompt_id"] for row in listed} <= set(prompts)
    assert not any("prompt" in row for row in listed)


def test_the_review_list_is_part_of_the_steps_identity(tmp_path: Path, meter: Meter) -> None:
    first, _ = run(tmp_path)
    labels = meter.answered["labels"]
    shown, reused = run(tmp_path, {"judging.review_texts": True, "judging.review_prompts": 3})
    assert not reused
    assert meter.answered["labels"] == labels
    assert table_bytes(tmp_path, shown) == table_bytes(tmp_path, first)
    listed = review(tmp_path, shown)
    assert len(listed) == 3
    assert all(row["prompt"] in PROMPTS for row in listed)
    none, _ = run(tmp_path, {"judging.review_prompts": 0})
    assert "prompt_review" not in none.files


def test_labels_that_the_files_give_leave_nothing_to_review(tmp_path: Path, meter: Meter) -> None:
    given = [{"prompt": text, "labels": [TAXONOMY.names[0]]} for text in PROMPTS]
    lines = "".join(f"{json.dumps(row)}\n" for row in given)
    (tmp_path / "prompts.jsonl").write_text(lines, encoding="utf-8")
    changes = {"prompts.labels_field": "labels"}
    manifest, _ = run(tmp_path, changes)
    assert ("prompt_labels" in manifest.tables, "prompt_review" in manifest.files) == (False, False)
    assert "label_coverage" not in manifest.metrics
    # What bounds a list that is not made is no part of the result.
    assert run(tmp_path, {**changes, "judging.review_prompts": 7}) == (manifest, True)


def test_an_erased_prompt_is_not_read_again_and_nothing_else_is_paid_for(
    tmp_path: Path, meter: Meter
) -> None:
    first, _ = run(tmp_path)
    drawn = {row["prompt_id"] for row in rows(tmp_path, first, "draws")}
    gone = min(drawn)
    storage = open_storage(str(tmp_path / "out"))
    plan = plan_erasure(storage, Selection(prompts=frozenset({gone})))
    erase(storage, Erasure(
        by="ada", reason="asked for", at="2026-06-01", selection={}, prompts=(gone,), models=(),
        tables=tuple(plan.tables),
        keys={name: tuple(k.hex() for k in keys) for name, keys in plan.keys.items()},
    ))  # fmt: skip
    paid = meter.answered.total()
    again, reused = run(tmp_path)
    assert not reused
    assert meter.answered.total() == paid
    assert again.counts["prompts_erased"] == 1
    for name in ("prompts", "draws", "responses"):
        assert gone not in {row["prompt_id"] for row in rows(tmp_path, again, name)}
    assert {row["prompt_id"] for row in rows(tmp_path, again, "draws")} == drawn - {gone}
