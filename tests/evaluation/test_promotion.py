"""What may be promoted, by the step and by people; through the commands where people would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.evaluation_world import TAXONOMY, inputs, run_config, write_region
from tests.inference.released import release

from cosalign.domain.run_config import RunConfig
from cosalign.evaluation.gate_step import promote_where_told
from cosalign.evaluation.step import EvaluationStep
from cosalign.inference.models import resolve_model
from cosalign.inference.safety_template import export_template
from cosalign.inference.tiny_model import build_tiny_model
from cosalign.pipelines.command_line import main as cosalign
from cosalign.runtime.shares import all_shares
from cosalign.runtime.step import StepContext, StepManifest, run_step
from cosalign.store.model_pointer import Choice, ModelPointer
from cosalign.store.storage import GenerationMismatch, Storage, open_storage

LENIENT: dict[str, Any] = {
    "score_drop": 2.0, "unsafe_share": 1.0, "coverage": 0.0, "canaries": None, "min_items": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _regions(tmp_path: Path) -> None:
    write_region(tmp_path / "regions", "eu-bank", ["financial_crime_theft"])


def gated(root: Path, **gate: Any) -> RunConfig:
    config = run_config(root, systems=("ica", "dpo"))
    return RunConfig.model_validate({**config.model_dump(), "gate": {**LENIENT, **gate}})


def run(config: RunConfig, **models: str) -> tuple[StepManifest, bool]:
    given = inputs(config)
    training = given["training"].model_copy(update={"models": {"sft": "double:sft", **models}})
    return run_step(EvaluationStep(), config, {**given, "training": training})


def pointer_of(config: RunConfig) -> ModelPointer:
    return ModelPointer(open_storage(config.storage.root), "main")


def digest(name: str) -> str:
    return resolve_model(f"double:{name}", Path("unused")).digest


def promoted(config: RunConfig) -> list[tuple[str, str]]:
    return [(entry.action, entry.uri) for entry in pointer_of(config).history()]


def gate_file(config: RunConfig, manifest: StepManifest) -> dict[str, Any]:
    storage = open_storage(config.storage.root)
    found: dict[str, Any] = json.loads(storage.read_bytes(manifest.files["gate"]))
    return found


def test_without_being_told_a_passed_model_is_not_promoted(tmp_path: Path) -> None:
    config = gated(tmp_path)
    manifest, _ = run(config, dpo="double:a")
    found = gate_file(config, manifest)
    assert found["passed"]
    assert (found["reference"], found["rival"]) == ("ica", None)
    assert found["items"] == manifest.tables["evaluation"].sha256
    assert manifest.metrics["gate_passed"] == 1.0
    assert promoted(config) == []


def test_a_passed_model_is_promoted_once_and_the_run_then_finds_nothing_to_do(
    tmp_path: Path,
) -> None:
    config = gated(tmp_path, promote=True)
    first, _ = run(config, dpo="double:a")
    assert promoted(config) == [("promote", "double:a")]
    assert run(config, dpo="double:a") == (first, True)
    assert len(promoted(config)) == 1


def test_a_failed_model_is_not_promoted(tmp_path: Path) -> None:
    config = gated(tmp_path, promote=True, min_items=10_000)
    manifest, _ = run(config, dpo="double:a")
    assert manifest.metrics["gate_passed"] == 0.0
    assert promoted(config) == []


def test_the_next_model_is_held_against_the_promoted_one(tmp_path: Path) -> None:
    config = gated(tmp_path, promote=True)
    run(config, dpo="double:a")
    manifest, _ = run(config, dpo="double:b")
    found = gate_file(config, manifest)
    assert (found["reference"], found["rival"]) == ("current", digest("a"))
    assert "cosa_score/current" in manifest.metrics
    assert "difference/dpo/current" in manifest.metrics
    # The promoted model's answers were paid for when it was evaluated itself.
    assert manifest.counts["answers_made"] == 6
    assert promoted(config) == [("promote", "double:a"), ("promote", "double:b")]


def test_shares_pay_for_the_promoted_models_answers_too(tmp_path: Path) -> None:
    config = gated(tmp_path, promote=True)
    run(config, dpo="double:a")
    more = config.evaluation.model_copy(update={"prompts_per_config": 12})
    config = config.model_copy(update={"evaluation": more})
    given = inputs(config)
    models = {"sft": "double:sft", "dpo": "double:b"}
    given["training"] = given["training"].model_copy(update={"models": models})
    context = StepContext(config, open_storage(config.storage.root), TAXONOMY, given, "x")
    for share in all_shares(2):
        EvaluationStep().pay(context, share)
    manifest, _ = run(config, dpo="double:b")
    assert "cosa_score/current" in manifest.metrics
    assert (manifest.counts["answers_made"], manifest.counts["verdicts_made"]) == (0, 0)


def test_an_attempt_that_died_after_promoting_is_repeated_to_the_same_result(
    tmp_path: Path,
) -> None:
    config = gated(tmp_path, promote=True)
    first, _ = run(config, dpo="double:a")
    storage = open_storage(config.storage.root)
    # What such a crash leaves: the promotion, tables and pages, and no manifest.
    storage.delete(f"steps/evaluation/{first.fingerprint}/manifest.json")
    before = storage.read_bytes(first.files["gate"])
    again, reused = run(config, dpo="double:a")
    assert not reused
    assert again.fingerprint == first.fingerprint
    assert again.tables == first.tables
    assert storage.read_bytes(again.files["gate"]) == before
    assert (again.counts["promotions_made"], len(promoted(config))) == (0, 1)


def test_a_repeated_run_does_not_undo_a_rollback(tmp_path: Path) -> None:
    config = gated(tmp_path, promote=True)
    run(config, dpo="double:a")
    second, _ = run(config, dpo="double:b")
    assert cosalign(["rollback", "--root", config.storage.root, "--by", "ada"]) == 0
    storage = open_storage(config.storage.root)
    storage.delete(f"steps/evaluation/{second.fingerprint}/manifest.json")
    again, _ = run(config, dpo="double:b")
    assert again.fingerprint == second.fingerprint
    current = pointer_of(config).current()
    assert current is not None
    assert (current.action, current.uri, current.target) == ("rollback", "double:a", 1)


def test_who_was_overtaken_while_measuring_is_told_to_measure_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = gated(tmp_path, promote=True)
    run(config, dpo="double:a")

    def overtaken(context: Any, draft: Any) -> None:
        other = Choice(action="promote", uri="double:c", digest=digest("c"), by="eve", at="now")
        pointer_of(config).record(other, 1)
        monkeypatch.setattr("cosalign.evaluation.step.promote_where_told", promote_where_told)
        promote_where_told(context, draft)

    monkeypatch.setattr("cosalign.evaluation.step.promote_where_told", overtaken)
    with pytest.raises(GenerationMismatch) as raised:
        run(config, dpo="double:b")
    assert raised.value.exit_code == 75
    manifest, _ = run(config, dpo="double:b")  # the retry
    assert gate_file(config, manifest)["rival"] == digest("c")
    assert [uri for _, uri in promoted(config)] == ["double:a", "double:c", "double:b"]


def test_promotion_by_itself_needs_the_candidate_among_the_systems(tmp_path: Path) -> None:
    config = gated(tmp_path, promote=True, candidate="sft")
    with pytest.raises(Exception, match=r"evaluation\.systems does not hold"):
        run(config, dpo="double:a")
    manifest, _ = run(gated(tmp_path, candidate="sft"), dpo="double:a")
    assert "gate" not in manifest.files


def store_summary(storage: Storage, run_id: str, manifest: StepManifest) -> None:
    summary = {"fingerprints": {"evaluation": manifest.fingerprint}}
    storage.write_bytes(f"runs/{run_id}/summary.json", json.dumps(summary).encode())


def test_people_promote_by_run_fingerprint_or_address(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = gated(tmp_path)
    root = config.storage.root
    manifest, _ = run(config, dpo="double:a")
    store_summary(open_storage(root), "first", manifest)
    assert cosalign(["promote", "first", "--root", root, "--by", "ada", "--reason", "x"]) == 0
    address = f"{root}/steps/evaluation/{manifest.fingerprint}/manifest.json"
    for named in (manifest.fingerprint[:8], address):
        assert cosalign(["promote", named, "--root", root]) == 0
    assert "is current already" in capfd.readouterr().out
    (entry,) = pointer_of(config).history()
    assert (entry.by, entry.reason, entry.override) == ("ada", "x", None)
    assert entry.gate is not None
    assert entry.gate.passed
    assert cosalign(["promote", "nothing", "--root", root]) == 2
    assert "no run and no evaluation 'nothing'" in capfd.readouterr().err


def test_a_failed_model_needs_an_override_which_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = gated(tmp_path, min_items=10_000)
    root = config.storage.root
    manifest, _ = run(config, dpo="double:a")
    named = manifest.fingerprint[:12]
    assert cosalign(["promote", named, "--root", root]) == 2
    told = capfd.readouterr().err
    assert "its gate failed (score_drop:too_few_items, unsafe_share:too_few_items)" in told
    assert "--override REASON" in told
    assert promoted(config) == []
    assert cosalign(["promote", named, "--root", root, "--override", " "]) == 2
    assert cosalign(["promote", named, "--root", root, "--override", "hotfix for EU"]) == 0
    (entry,) = pointer_of(config).history()
    assert entry.override == "hotfix for EU"
    assert entry.gate is not None
    assert entry.gate.codes == ("score_drop:too_few_items", "unsafe_share:too_few_items")
    capfd.readouterr()
    assert cosalign(["models", "--root", root]) == 0
    line = capfd.readouterr().out
    assert line.startswith("* 1  promote")
    assert "gate failed, overridden  (hotfix for EU)" in line


def test_a_gate_that_compared_with_an_older_model_is_stale(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = gated(tmp_path)
    root = config.storage.root
    a, _ = run(config, dpo="double:a")
    b, _ = run(config, dpo="double:b")
    assert cosalign(["promote", a.fingerprint, "--root", root]) == 0
    assert cosalign(["promote", b.fingerprint, "--root", root]) == 2
    assert "its gate compared it with no model, and the current model is" in capfd.readouterr().err
    again, _ = run(config, dpo="double:b")
    assert cosalign(["promote", again.fingerprint, "--root", root]) == 0
    assert [uri for _, uri in promoted(config)] == ["double:a", "double:b"]
    # Back to one that was displaced leads no new evaluation.
    assert cosalign(["promote", a.fingerprint, "--root", root]) == 2
    assert "current before: `cosalign rollback --to 1`" in capfd.readouterr().err


def test_rollbacks_walk_back_and_are_listed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = gated(tmp_path, promote=True)
    root = config.storage.root
    for name in "abc":
        run(config, dpo=f"double:{name}")
    rollback = ["rollback", "--root", root, "--by", "ada", "--reason", "too slow"]
    assert cosalign(rollback) == cosalign(rollback) == 0
    assert promoted(config)[3:] == [("rollback", "double:b"), ("rollback", "double:a")]
    assert cosalign(rollback) == 2
    assert "the first that was promoted" in capfd.readouterr().err
    assert cosalign([*rollback, "--to", "5"]) == 2
    assert cosalign([*rollback, "--to", "3"]) == 0
    capfd.readouterr()
    assert cosalign(["models", "--root", root, "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert listed["current"] == 6
    assert [entry["target"] for entry in listed["history"]] == [None, None, None, 2, 1, 3]
    assert listed["history"][5]["digest"] == digest("c")


def test_a_model_that_is_gone_or_altered_is_not_promoted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = gated(tmp_path)
    manifest, _ = run(config, dpo="double:a")
    storage = open_storage(config.storage.root)
    gate = gate_file(config, manifest)
    for uri, message in (
        ("double:other", "it was altered since"),
        ("/no/such/model", "does not exist"),
    ):
        gate["model"]["uri"] = uri
        storage.write_bytes(manifest.files["gate"], json.dumps(gate).encode())
        assert cosalign(["promote", manifest.fingerprint, "--root", config.storage.root]) == 2
        assert message in capfd.readouterr().err.lower()
    assert promoted(config) == []


def test_listing_nothing_says_what_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cosalign(["models", "--root", str(tmp_path / "empty")]) == 0
    assert "cosalign promote --help" in capfd.readouterr().out


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A model as training releases it, with its manifest."""
    folder = build_tiny_model(tmp_path / "released")
    export_template(folder)
    model = resolve_model(str(folder), tmp_path / "cache")
    release(open_storage(str(folder)), model)
    return folder


def test_a_released_model_is_promoted_by_its_manifest_once_its_gate_is_known(
    tmp_path: Path, released: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = gated(tmp_path)
    root = config.storage.root
    address = f"{released}/model-manifest.json"
    command = ["promote", address, "--root", root, "--cache", str(tmp_path / "cache")]
    assert cosalign(command) == 2
    assert "it never stood before a gate" in capfd.readouterr().err
    # A gate that another evaluation left in this storage, for this very model.
    manifest, _ = run(config, dpo="double:a")
    storage = open_storage(root)
    gate = gate_file(config, manifest)
    model = json.loads((released / "model-manifest.json").read_text(encoding="utf-8"))
    gate["model"] = {"uri": "gs://elsewhere", "digest": model["digest"]}
    storage.write_bytes(manifest.files["gate"], json.dumps(gate).encode())
    assert cosalign(command) == 0
    (entry,) = pointer_of(config).history()
    assert (entry.uri, entry.digest) == (released.as_uri(), model["digest"])


def test_a_released_model_is_held_against_its_manifest_file_by_file(
    tmp_path: Path, released: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = next(released.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    address = f"{released}/model-manifest.json"
    command = ["promote", address, "--root", str(tmp_path / "out"), "--override", "hotfix"]
    assert cosalign(command) == 2
    assert f"{weights.name} was altered" in capfd.readouterr().err
