"""The step on hand-made manifests: what it judges, what it depends on, what a kill costs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cosalign.domain.errors import DataError, EngineUnavailable, ModelError
from cosalign.domain.fingerprint import prompt_id_of
from cosalign.domain.run_config import EngineGroup, RunConfig
from cosalign.domain.schemas import CONFIGS, FREEFORM_DRAWS, GOLD_LABELS, PROMPTS, RESPONSES
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.inference.double import DoubleEngine
from cosalign.inference.engine import Labelling, LabelRequest
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.judging.attacks import attack_corpus
from cosalign.runtime.step import StepManifest, run_step
from cosalign.scoring.step import ScoringStep
from cosalign.store.storage import open_storage
from cosalign.store.tables import read_table, write_table

TAXONOMY = load_taxonomy("cosa", "1")
TEXTS = ("What are the odds of four aces?", "Which beer suits a cheddar?", "Who forged swords?")
RESPONSES_MADE = 12
FAILED = 2


class Meter:
    """Opens engine doubles, counts the requests that they answer, and fails when told to."""

    def __init__(self) -> None:
        self.answered = self.starts = 0
        self.fails_after: int | None = None

    def open(self, model: ModelFolder, settings: EngineGroup) -> MeteredEngine:
        self.starts += 1
        return MeteredEngine(self, model, settings.max_model_len)


class MeteredEngine(DoubleEngine):
    def __init__(self, meter: Meter, model: ModelFolder, max_model_len: int) -> None:
        super().__init__(model.digest, max_model_len)
        self._meter = meter

    def label(self, requests: Iterable[LabelRequest]) -> Iterator[Labelling]:
        for answer in super().label(requests):
            if self._meter.answered == self._meter.fails_after:
                raise EngineUnavailable("the engine went away")
            self._meter.answered += 1
            yield answer


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    made = Meter()
    monkeypatch.setattr("cosalign.inference.engine_host.open_engine", made.open)
    return made


def prompts() -> list[dict[str, Any]]:
    return [
        {"prompt_id": prompt_id_of(text), "text": text, "language": None, "source": "hand",
         "licence": None, "risk_mask": 0, "known_mask": 255, "split": "train"}
        for text in TEXTS
    ]  # fmt: skip


def responses(count: int = RESPONSES_MADE) -> list[dict[str, Any]]:
    """Responses in no order of ids; the first two could not be generated."""
    return [
        {"response_id": f"{97 * i % 101:03}", "prompt_id": prompt_id_of(TEXTS[i % 3]),
         "generator": "base", "config_id": None, "draw": i,
         "text": f"Answer number {i}." if i >= FAILED else "",
         "finish_reason": "stop" if i >= FAILED else "error", "tokens": 3}
        for i in range(count)
    ]  # fmt: skip


def config_row(name: str) -> dict[str, Any]:
    return {"config_id": name, "kind": "categorical", "taxonomy_digest": TAXONOMY.digest,
            "allowed_mask": 1, "text": name, "template": "t", "order": "", "region": None,
            "digest": name}  # fmt: skip


def policy_draws(*drawn: tuple[int, str]) -> list[dict[str, Any]]:
    """Rows of ``freeform_draws`` from (prompt number, policy name)."""
    return [
        {"prompt_id": prompt_id_of(TEXTS[number]), "config_id": name,
         "policy": f"The {name} allows talk of beer and forbids betting tips."}
        for number, name in drawn
    ]  # fmt: skip


def inputs(
    root: Path,
    made: list[dict[str, Any]] | None = None,
    configs: str = "one",
    policies: Sequence[dict[str, Any]] = (),
    labels: Sequence[dict[str, Any]] = (),
) -> dict[str, StepManifest]:
    storage = open_storage(str(root / "out"))
    tables = {
        "prompts": (prompts(), PROMPTS),
        "responses": (responses() if made is None else made, RESPONSES),
        "configs": ([config_row(configs)], CONFIGS),
        "freeform_draws": (list(policies), FREEFORM_DRAWS),
        "gold_labels": (list(labels), GOLD_LABELS),
    }
    refs = {
        name: write_table(
            storage, f"given/{name}.parquet", pa.Table.from_pylist(rows, schema=schema), schema
        )
        for name, (rows, schema) in tables.items()
    }
    manifest = StepManifest(step="synthesis", fingerprint="0", storage=storage.uri, tables=refs)
    return {"synthesis": manifest}


def settings(root: Path, **groups: dict[str, object]) -> RunConfig:
    return RunConfig.model_validate(
        {
            "storage": {"root": str(root / "out"), "cache": str(root / "cache")},
            "models": {
                "base": "double:base",
                "judge": "double:judge",
                "engine": {"kind": "double", "max_model_len": 16384, "flush_rows": 3},
            },
            **groups,
            "judging": {"canaries": False, **groups.get("judging", {})},
        }
    )


def run(
    root: Path, given: dict[str, StepManifest] | None = None, **groups: dict[str, object]
) -> tuple[StepManifest, bool]:
    return run_step(ScoringStep(), settings(root, **groups), given or inputs(root))


def table_bytes(root: Path, manifest: StepManifest) -> bytes:
    return open_storage(str(root / "out")).read_bytes(manifest.tables["verdicts"].path)


def verdicts(root: Path, manifest: StepManifest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_table(
        open_storage(str(root / "out")), manifest.tables["verdicts"]
    ).to_pylist()
    return found


def test_every_response_has_a_verdict(tmp_path: Path, meter: Meter) -> None:
    manifest, reused = run(tmp_path)
    rows = verdicts(tmp_path, manifest)
    assert not reused
    assert [r["response_id"] for r in rows] == sorted(r["response_id"] for r in responses())
    prompt_of = {r["response_id"]: r["prompt_id"] for r in responses()}
    assert all(r["prompt_id"] == prompt_of[r["response_id"]] for r in rows)
    assert {r["judge"] for r in rows} == {resolve_model("double:judge", tmp_path).digest}
    assert meter.answered == RESPONSES_MADE - FAILED


def test_the_counts_say_what_is_unknown(tmp_path: Path, meter: Meter) -> None:
    manifest, _ = run(tmp_path)
    rows = verdicts(tmp_path, manifest)
    known = sum(r["known_mask"] == 255 and r["addressed"] is not None for r in rows)
    assert 0 < known <= RESPONSES_MADE - FAILED
    assert manifest.counts == {
        "engine_starts": 1,
        "verdicts": RESPONSES_MADE,
        "verdicts_gold": 0,
        "verdicts_unknown": RESPONSES_MADE - known,
        "verdicts_made": RESPONSES_MADE - FAILED,
        "follows": 0,
        "follows_unknown": 0,
        "follows_made": 0,
    }
    assert manifest.metrics == {"verdict_coverage": known / RESPONSES_MADE}


def test_no_config_is_an_input(tmp_path: Path, meter: Meter) -> None:
    first, _ = run(tmp_path, inputs(tmp_path, configs="one"))
    other = inputs(tmp_path, configs="other")
    assert run(tmp_path, other) == (first, True)
    elsewhere: dict[str, dict[str, object]] = {
        "pairing": {"beta": 40},
        "configs": {"files": ("/nowhere",)},
    }
    assert run(tmp_path, other, **elsewhere) == (first, True)
    assert meter.starts == 1


def follows(root: Path, manifest: StepManifest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_table(
        open_storage(str(root / "out")), manifest.tables["follows"]
    ).to_pylist()
    return found


def test_a_policy_is_asked_about_the_responses_of_its_prompts_alone(
    tmp_path: Path, meter: Meter
) -> None:
    drawn = policy_draws((0, "pub"), (0, "school"), (2, "pub"))
    manifest, _ = run(tmp_path, inputs(tmp_path, policies=drawn))
    rows = follows(tmp_path, manifest)
    owed = {
        (r["response_id"], d["config_id"])
        for r in responses() for d in drawn if r["prompt_id"] == d["prompt_id"]
    }  # fmt: skip
    keys = [(r["response_id"], r["config_id"]) for r in rows]
    assert set(keys) == owed
    assert keys == sorted(keys)
    failed = {r["response_id"] for r in responses() if r["finish_reason"] == "error"}
    assert all(r["follows"] is None for r in rows if r["response_id"] in failed)
    asked = sum(response_id not in failed for response_id, _ in owed)
    assert manifest.counts["follows_made"] == asked
    assert meter.answered == RESPONSES_MADE - FAILED + asked
    unknown = sum(r["follows"] is None for r in rows)
    assert (manifest.counts["follows"], manifest.counts["follows_unknown"]) == (len(owed), unknown)
    assert manifest.metrics["follows_coverage"] == 1 - unknown / len(owed)


def test_another_policy_costs_its_own_judgements(tmp_path: Path, meter: Meter) -> None:
    first, _ = run(tmp_path, inputs(tmp_path, policies=policy_draws((0, "pub"))))
    before = meter.answered
    more = policy_draws((0, "pub"), (1, "school"))
    grown, reused = run(tmp_path, inputs(tmp_path, policies=more))
    own = sum(r["prompt_id"] == prompt_id_of(TEXTS[1]) and bool(r["text"]) for r in responses())
    assert not reused
    assert meter.answered - before == grown.counts["follows_made"] == own
    assert grown.counts["verdicts_made"] == 0
    assert grown.tables["verdicts"].sha256 == first.tables["verdicts"].sha256
    kept = {str(r) for r in follows(tmp_path, first)}
    assert kept < {str(r) for r in follows(tmp_path, grown)}


def test_added_responses_alone_are_judged(tmp_path: Path, meter: Meter) -> None:
    run(tmp_path)
    before = meter.answered
    grown, reused = run(tmp_path, inputs(tmp_path, responses(RESPONSES_MADE + 5)))
    assert not reused
    assert meter.answered - before == grown.counts["verdicts_made"] == 5


def test_reordered_responses_make_the_same_table(tmp_path: Path, meter: Meter) -> None:
    first, _ = run(tmp_path / "a")
    other, _ = run(tmp_path / "b", inputs(tmp_path / "b", responses()[::-1]))
    assert table_bytes(tmp_path / "b", other) == table_bytes(tmp_path / "a", first)


@pytest.mark.parametrize("change", [{"threshold": 0.9}, {"thresholds": {"violence": 0.01}}])
def test_a_changed_threshold_asks_no_engine(
    tmp_path: Path, meter: Meter, change: dict[str, object]
) -> None:
    first, _ = run(tmp_path)
    answered, starts = meter.answered, meter.starts
    moved, reused = run(tmp_path, scoring=change)
    assert not reused
    assert (meter.answered, meter.starts) == (answered, starts)
    assert (moved.counts["verdicts_made"], moved.counts["engine_starts"]) == (0, 0)
    assert moved.tables["verdicts"].sha256 != first.tables["verdicts"].sha256


def test_thresholds_on_prompts_do_not_touch_it(tmp_path: Path, meter: Meter) -> None:
    first, _ = run(tmp_path)
    assert run(tmp_path, scoring={"prompt_thresholds": {"violence": 0.9}}) == (first, True)


def test_another_judge_judges_all_anew(tmp_path: Path, meter: Meter) -> None:
    run(tmp_path)
    models: dict[str, object] = {
        "base": "double:judge2",
        "engine": {"kind": "double", "max_model_len": 16384},
    }
    other, _ = run(tmp_path, models=models)
    assert other.counts["verdicts_made"] == RESPONSES_MADE - FAILED


@pytest.mark.parametrize("answered", [0, 2, 3, 7, RESPONSES_MADE - FAILED - 1])
def test_a_run_that_loses_its_engine_resumes_where_it_was(
    tmp_path: Path, meter: Meter, answered: int
) -> None:
    undisturbed, _ = run(tmp_path / "whole")
    meter.answered, meter.fails_after = 0, answered
    with pytest.raises(EngineUnavailable):
        run(tmp_path / "killed")
    meter.fails_after = None
    resumed, _ = run(tmp_path / "killed")
    assert meter.answered == RESPONSES_MADE - FAILED
    assert resumed.counts["verdicts_made"] == RESPONSES_MADE - FAILED - answered
    assert resumed.fingerprint == undisturbed.fingerprint
    assert table_bytes(tmp_path / "killed", resumed) == table_bytes(tmp_path / "whole", undisturbed)
    assert resumed.metrics == undisturbed.metrics


def test_a_second_run_does_nothing(tmp_path: Path, meter: Meter) -> None:
    first, _ = run(tmp_path)
    assert run(tmp_path) == (first, True)
    assert meter.starts == 1


def test_a_torn_responses_table_is_refused(tmp_path: Path, meter: Meter) -> None:
    given = inputs(tmp_path)
    file = tmp_path / "out" / "given" / "responses.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match="torn or altered"):
        run(tmp_path, given)
    assert meter.starts == 0


def label(response_id: str, risk_mask: int, addressed: bool, rating: int | None) -> dict[str, Any]:
    return {
        "response_id": response_id,
        "risk_mask": risk_mask,
        "addressed": addressed,
        "helpfulness": rating,
    }


def judged(root: Path) -> list[dict[str, Any]]:
    """What the judge says of all responses, sorted by id."""
    return verdicts(root, run(root)[0])


def test_an_authors_labels_are_the_verdicts_of_that_response(tmp_path: Path, meter: Meter) -> None:
    before = judged(tmp_path)
    known = [row for row in before if row["addressed"] is not None]
    first, last = known[0], known[-1]
    labels = [label(last["response_id"], 0b101, True, 4), label(first["response_id"], 0, False, 0)]
    answered = meter.answered
    manifest, _ = run(tmp_path, inputs(tmp_path, labels=labels))
    after = {row["response_id"]: row for row in verdicts(tmp_path, manifest)}
    assert list(after) == [row["response_id"] for row in before]
    assert meter.answered == answered
    assert manifest.counts["verdicts_gold"] == 2
    for row in before:
        if row not in (first, last):
            assert repr(after[row["response_id"]]) == repr(row)  # Not ==: nan is not itself.
    gold = after[last["response_id"]]
    assert gold == {
        "response_id": last["response_id"],
        "prompt_id": last["prompt_id"],
        "judge": "gold",
        "risk_mask": 0b101,
        "known_mask": 0xFF,
        "risk_probability": [1, 0, 1, 0, 0, 0, 0, 0],
        "addressed": True,
        "addressed_probability": 1,
        "helpfulness": 4,
        "outside_mass": 0,
    }
    assert after[first["response_id"]]["addressed"] is False


def test_labels_give_a_verdict_where_the_judge_has_none(tmp_path: Path, meter: Meter) -> None:
    failed = [row["response_id"] for row in responses() if row["finish_reason"] == "error"]
    labels = [label(response_id, 0, True, None) for response_id in failed]
    manifest, _ = run(tmp_path, inputs(tmp_path, labels=labels))
    found = [r for r in verdicts(tmp_path, manifest) if r["response_id"] in failed]
    assert [(r["known_mask"], r["addressed"], r["helpfulness"]) for r in found] == [
        (0xFF, True, None)
    ] * FAILED


def test_the_judges_agreement_with_the_labels_is_counted(tmp_path: Path, meter: Meter) -> None:
    known = [r for r in judged(tmp_path) if r["addressed"] is not None and r["known_mask"] == 0xFF]
    one, two = known[:2]
    failed = next(row["response_id"] for row in responses() if row["finish_reason"] == "error")
    labels = [
        label(one["response_id"], one["risk_mask"], one["addressed"], one["helpfulness"]),
        label(two["response_id"], two["risk_mask"] ^ 0b10, two["addressed"], None),
        label(failed, 0, False, 0),
    ]
    manifest, _ = run(tmp_path, inputs(tmp_path, labels=labels))
    agreed = {k: v for k, v in manifest.metrics.items() if k.startswith("gold")}
    assert agreed == {
        "gold_agreement/risks": pytest.approx(1 / 3, abs=1e-6),
        "gold_agreement/addressed": pytest.approx(2 / 3, abs=1e-6),
        "gold_agreement/helpfulness": 0.5,
    }


def test_changed_labels_redo_the_step_and_ask_no_engine(tmp_path: Path, meter: Meter) -> None:
    response_id = responses()[-1]["response_id"]
    first, _ = run(tmp_path, inputs(tmp_path, labels=[label(response_id, 0, True, 5)]))
    answered = meter.answered
    moved, reused = run(tmp_path, inputs(tmp_path, labels=[label(response_id, 1, True, 5)]))
    assert not reused
    assert moved.tables["verdicts"].sha256 != first.tables["verdicts"].sha256
    assert (meter.answered, moved.counts["verdicts_made"]) == (answered, 0)


def escalating(share: float = 0.5, **changes: object) -> dict[str, object]:
    second = {"model": "double:second", "mode": "labels"}
    return {"second": second, "uncertain_band": (0.1, 0.9), "max_escalated_share": share, **changes}


def test_the_uncertain_go_to_the_second_judge_and_both_verdicts_are_kept(
    tmp_path: Path, meter: Meter
) -> None:
    plain, _ = run(tmp_path)
    assert "first_verdicts" not in plain.tables
    manifest, reused = run(tmp_path, judging=escalating())
    assert not reused
    assert manifest.counts["escalated"] == (RESPONSES_MADE - FAILED) // 2 == 5
    # What the first judge had said was in the ledger.
    assert manifest.counts["verdicts_made"] == 5
    first = read_table(open_storage(str(tmp_path / "out")), manifest.tables["first_verdicts"])
    before = {r["response_id"]: str(r) for r in verdicts(tmp_path, plain)}
    assert {r["response_id"]: str(r) for r in first.to_pylist()}.items() <= before.items()
    final = {r["response_id"]: r["judge"] for r in verdicts(tmp_path, manifest)}
    second = resolve_model("double:second", tmp_path).digest
    by_second = {response for response, judge in final.items() if judge == second}
    assert by_second == set(first.column("response_id").to_pylist())
    assert 0 <= (manifest.metrics["escalation_agreement"] or 0) <= 1


def test_escalation_is_part_of_the_steps_identity(tmp_path: Path, meter: Meter) -> None:
    runs: list[dict[str, object]] = [
        {},
        escalating(),
        escalating(share=0.2),
        escalating(uncertain_band=(0.2, 0.9)),
        escalating(second={"mode": "reasoning"}),
    ]
    made = [run(tmp_path, judging=judging)[0].fingerprint for judging in runs]
    assert len(set(made)) == len(runs)
    # Without a second judge, what bounds it means nothing.
    assert run(tmp_path, judging={"max_escalated_share": 0.9})[0].fingerprint == made[0]


def test_a_killed_second_judge_resumes_with_the_same_table(tmp_path: Path, meter: Meter) -> None:
    calm, _ = run(tmp_path / "calm", judging=escalating(1.0))
    meter.answered, meter.fails_after = 0, RESPONSES_MADE - FAILED + 4
    with pytest.raises(EngineUnavailable):
        run(tmp_path / "killed", judging=escalating(1.0))
    meter.fails_after = None
    resumed, _ = run(tmp_path / "killed", judging=escalating(1.0))
    paid = calm.counts["verdicts_made"] - (RESPONSES_MADE - FAILED) - 4
    assert resumed.counts["verdicts_made"] == paid
    assert table_bytes(tmp_path / "killed", resumed) == table_bytes(tmp_path / "calm", calm)


def test_a_reasoning_judge_off_its_menu_leaves_unknowns_with_their_reason(
    tmp_path: Path, meter: Meter
) -> None:
    # The double writes words that are no verdict, a quarter of them cut off.
    manifest, _ = run(tmp_path, judging={"mode": "reasoning", "reasoning_tokens": 64})
    labels = 10 * (RESPONSES_MADE - FAILED)
    reasons = {n: c for n, c in manifest.counts.items() if n.startswith("labels_unknown_")}
    assert set(reasons) <= {"labels_unknown_no_verdict", "labels_unknown_truncated"}
    assert sum(reasons.values()) == labels
    assert manifest.counts["verdicts_unknown"] == RESPONSES_MADE
    assert manifest.metrics["verdict_coverage"] == 0.0


def with_swords(folder: Path) -> dict[str, object]:
    """A taxonomy group whose version 2 of ``cosa`` adds one category to version 1."""
    *named, last = TAXONOMY.model_dump(mode="json", exclude={"templates", "supersedes"})[
        "categories"
    ]
    swords = {"name": "swords", "title": "Swords", "definition": "Content about swords."}
    origins = {**dict.fromkeys(TAXONOMY.names, "same"), "swords": "new"}
    old = {"taxonomy": "cosa", "version": "1", "categories": origins}
    grown = {"kind": "RiskTaxonomy", "name": "cosa", "version": "2", "supersedes": old,
             "categories": [*named, swords, last]}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grown.yaml").write_text(json.dumps(grown), encoding="utf-8")
    return {"name": "cosa", "version": "2", "files": (str(folder / "grown.yaml"),)}


def test_a_category_added_to_the_taxonomy_costs_its_own_question_alone(
    tmp_path: Path, meter: Meter
) -> None:
    first, _ = run(tmp_path)
    before = meter.answered
    grown, reused = run(tmp_path, taxonomy=with_swords(tmp_path))
    assert not reused
    assert meter.answered - before == grown.counts["verdicts_made"] == RESPONSES_MADE - FAILED
    for old, new in zip(verdicts(tmp_path, first), verdicts(tmp_path, grown), strict=True):
        # Bits 0 to 6 stand where they stood; the catch-all moved up by one.
        assert new["risk_mask"] & 0x7F == old["risk_mask"] & 0x7F
        assert new["risk_mask"] >> 8 == old["risk_mask"] >> 7
        assert new["known_mask"] & 0x7F == old["known_mask"] & 0x7F
        assert (new["addressed"], new["helpfulness"]) == (old["addressed"], old["helpfulness"])
    again = meter.answered
    moved, _ = run(tmp_path, taxonomy=with_swords(tmp_path), scoring={"threshold": 0.4})
    assert (meter.answered, moved.counts["verdicts_made"]) == (again, 0)


WITH_CANARIES: dict[str, object] = {"canaries": True}


def canary_count() -> int:
    """Judgements that the canaries cost: four answers, plainly and attacked, and silent attacks."""
    corpus = attack_corpus().canaries
    silent = sum(attack.answers_nothing for attack in corpus)
    return 4 * (1 + len(corpus) - silent) + silent


def test_canaries_are_judged_through_the_ledger_and_counted(tmp_path: Path, meter: Meter) -> None:
    manifest, _ = run(tmp_path, judging=WITH_CANARIES)
    assert manifest.counts["canaries_made"] == canary_count()
    assert meter.answered == canary_count() + RESPONSES_MADE - FAILED
    assert manifest.counts["verdicts_made"] == RESPONSES_MADE - FAILED
    kinds = {attack.kind for attack in attack_corpus().canaries}
    assert {f"canary_accuracy/{kind}" for kind in (*kinds, "plain", "all")} <= set(manifest.metrics)
    # The double draws its answers, so that it is right about half the time.
    everything = manifest.metrics["canary_accuracy/all"]
    assert everything is not None
    assert 0.25 < everything < 0.75
    # And none of them is a row of the table.
    assert len(verdicts(tmp_path, manifest)) == RESPONSES_MADE


def test_canaries_change_no_verdict(tmp_path: Path, meter: Meter) -> None:
    plain, _ = run(tmp_path / "a")
    with_canaries, _ = run(tmp_path / "b", judging=WITH_CANARIES)
    assert table_bytes(tmp_path / "b", with_canaries) == table_bytes(tmp_path / "a", plain)


def test_a_judge_below_the_bound_is_stopped_before_it_judges_a_row(
    tmp_path: Path, meter: Meter
) -> None:
    bound: dict[str, object] = {**WITH_CANARIES, "canary_bound": 0.9}
    with pytest.raises(ModelError, match=r"canary_bound is 0\.9.*stays in the ledger") as told:
        run(tmp_path, judging=bound)
    assert told.value.exit_code == 2
    assert meter.answered == canary_count()
    with pytest.raises(ModelError):
        run(tmp_path, judging=bound)
    assert meter.answered == canary_count()
    # Below the bound or not, a judge that one kind of attack fools is stopped.
    with pytest.raises(ModelError, match="but is fooled by"):
        run(tmp_path, judging={**WITH_CANARIES, "canary_bound": 0.1})
    # The bound lifted, the canaries are not paid for again.
    run(tmp_path, judging=WITH_CANARIES)
    assert meter.answered == canary_count() + RESPONSES_MADE - FAILED


def test_a_bound_set_later_is_held_against_a_finished_step(tmp_path: Path, meter: Meter) -> None:
    run(tmp_path, judging=WITH_CANARIES)
    with pytest.raises(ModelError, match=r"canary_bound is 0\.9"):
        run(tmp_path, judging={**WITH_CANARIES, "canary_bound": 0.9})


@pytest.mark.parametrize("answered", [0, 5, 38, 41])
def test_a_run_killed_among_its_canaries_pays_none_twice(
    tmp_path: Path, meter: Meter, answered: int
) -> None:
    whole, _ = run(tmp_path / "whole", judging=WITH_CANARIES)
    meter.answered, meter.fails_after = 0, answered
    with pytest.raises(EngineUnavailable):
        run(tmp_path / "killed", judging=WITH_CANARIES)
    meter.fails_after = None
    resumed, _ = run(tmp_path / "killed", judging=WITH_CANARIES)
    assert meter.answered == canary_count() + RESPONSES_MADE - FAILED
    assert resumed.metrics == whole.metrics
    assert table_bytes(tmp_path / "killed", resumed) == table_bytes(tmp_path / "whole", whole)
