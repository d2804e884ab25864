"""A safety lead applies a config, and some looks later a model that follows it is promoted.

All of it on a cluster: the chart with its images, SafetyConfigs by ``kubectl``, approvals by people
with SSH keys, reconcile from the CronJob's own template (made a Job by hand, as old servers know no
``batch/v1`` CronJob), runs submitted to a Kubeflow that this machine plays, and carried out task by
task as Jobs. The model is tiny, really trained, served by vLLM and its own judge, the gate is
lenient: what is shown is that every part does its work and that nothing is done twice, not that a
region is served well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.rendering import CHART, of_kind, run_helm
from tests.charts.rendering import objects_in as objects_of
from tests.cluster.cluster_world import (
    BUCKET,
    IMAGES,
    World,
    advertise_gpus,
    node_address,
    world,
)
from tests.cluster.job_launcher import JobLauncher, install_launcher
from tests.cluster.live_cluster import (
    Failed,
    chart_crds,
    install_crds,
    install_safety_config_crd,
    namespace,
    on_cluster,
    read,
    release,
)
from tests.cluster.task_pods import Object, Surroundings
from tests.e2e.increment_world import PROFILE, TAXONOMY
from tests.pipelines.kfp_server import FakeKubeflow, kfp_server
from tests.retraining.approval_world import Keys, approvers_file, person
from tests.retraining.reconcile_world import document

from cosalign.pipelines.command_line import main as cosalign
from cosalign.pipelines.ir_parsing import parse_pipeline
from cosalign.pipelines.local_run import LocalRun, TaskReport
from cosalign.retraining.approvals import ANNOTATION
from cosalign.store.accepted_configs import AcceptedSet
from cosalign.store.audit_log import AuditLog
from cosalign.store.model_pointer import ModelPointer
from cosalign.store.storage import open_storage, write_uri

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]
ROOT = f"gs://{BUCKET}/reconciled"
SECONDS = 300
STAGE = {
    "max_steps": 2, "learning_rate": 1.0e-3, "batch_size": 4, "micro_batch_size": 2,
    "max_length": 2048, "save_steps": 50,
}  # fmt: skip
LENIENT: dict[str, Any] = {
    "score_drop": 2.0, "unsafe_share": 1.0, "coverage": 0.0, "canaries": None, "min_items": 1,
}  # fmt: skip
GIVEN = f"gs://{BUCKET}/given"
FAIR = {"name": "fair", "version": "1"}
GENERATORS = PROFILE["synthesis"]["generators"]
THREE = (
    document("mc-casino", "gambling", taxonomy=FAIR),
    document("no-school", taxonomy=FAIR),
    document("de-club", "alcohol", "music", taxonomy=FAIR),
)
FOURTH = document("ie-pub", "alcohol", taxonomy=FAIR)


@dataclass
class Desk:
    """People with keys, a cluster, a Kubeflow, and what was seen on the way."""

    folder: Path
    space: str
    kubeflow: FakeKubeflow
    values: Path
    around: Surroundings
    keys: Keys
    looks: int = 0
    logs: list[str] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    reports: dict[str, list[TaskReport]] = field(default_factory=dict)

    @property
    def approvers(self) -> Path:
        return self.folder / "approvers.json"

    def apply(self, config: Object, *, approved: bool = True) -> None:
        """Applies a config with ``kubectl``, with its approvals in an annotation."""
        name = config["metadata"]["name"]
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config))
        if approved:
            config = {**config, "metadata": {**config["metadata"], **self._approvals(file, name)}}
        text = json.dumps(config)
        on_cluster("apply", "-n", self.space, "-f", "-", text=text)

    def _approvals(self, file: Path, name: str) -> Object:
        common = [str(file), "--root", ROOT, "--namespace", self.space,
                  "--approvers", str(self.approvers),
                  "--taxonomy-file", f"{GIVEN}/taxonomy.yaml"]  # fmt: skip
        signed = [("propose", "ada"), ("approve", "bob"), ("approve", "cy")]
        for command, who in signed:
            author = ["--author", who] if command == "propose" else []
            key = ["--key", str(self.keys.made[who])]
            assert cosalign(["config", command, *common, *author, *key]) == 0
        from cosalign.retraining.approvals import as_bundle, read_approvals

        found = read_approvals(open_storage(str(self.folder)), f"{name}.approvals")
        return {"annotations": {ANNOTATION: as_bundle(found)}}

    def look(self) -> str:
        """Starts what the CronJob would start; gives what it said."""
        self.looks += 1
        name = f"look-{self.looks}"
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": self.space},
            "spec": self._template()["spec"],
        }
        on_cluster("create", "-f", "-", text=json.dumps(job))
        log = self._ended(name)
        self.logs.append(log)
        return log

    def _template(self) -> Object:
        done = run_helm(
            "template", "cosalign", str(CHART), "-n", self.space, "-f", str(IMAGES),
            "-f", str(self.values), "--set", "reconcile.schedule=*/5 * * * *",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        cron = of_kind(objects_of(done.stdout), "CronJob")["cosalign-reconcile"]
        found: Object = cron["spec"]["jobTemplate"]
        return found

    def _ended(self, name: str) -> str:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(1)
            status = read("job", name, "-n", self.space)["status"]
            kinds = {c["type"] for c in status.get("conditions", []) if c["status"] == "True"}
            if kinds:
                log = on_cluster("logs", f"job/{name}", "-n", self.space)
                assert kinds == {"Complete"}, log
                return log
        raise AssertionError(f"{name} did not end within {SECONDS} s")

    def carry_out(self) -> None:
        """Carries the newest run out, task by task, as Kubeflow would."""
        run = self.kubeflow.runs[-1]
        name = run["display_name"]
        version = run["pipeline_version_reference"]["pipeline_version_id"]
        package = self.kubeflow.packages[int(version.removeprefix("v")) - 1]
        parts = [json.dumps(part) for part in yaml.safe_load_all(package)]
        launcher = JobLauncher(
            self.space, run["run_id"], self.around, f"{ROOT}/task-files/{name}",
            self.folder / "logs" / name,
        )  # fmt: skip
        reports = self.reports[name] = []
        LocalRun(
            parse_pipeline(parts[0], "cosalign", parts[1]), run["run_id"],
            self.folder / "outputs" / name, launcher, reports.append,
            artifacts=f"{ROOT}/artifacts/{run['run_id']}", retried=bool,
        ).execute(run["runtime_config"]["parameters"])  # fmt: skip
        self.kubeflow.states = ["SUCCEEDED"]

    def table(self) -> dict[str, list[str]]:
        """What ``kubectl get safetyconfigs`` shows, by name."""
        lines = on_cluster("get", "safetyconfigs", "-n", self.space).splitlines()
        return {line.split()[0]: line.split()[1:] for line in lines}

    def phases(self) -> dict[str, str]:
        return {name: cells[2] for name, cells in self.table().items() if name != "NAME"}

    def condition(self, name: str, kind: str) -> Object:
        status = read("safetyconfig", name, "-n", self.space)["status"]
        (found,) = [c for c in status["conditions"] if c["type"] == kind]
        return dict(found)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", made.url)
        write_uri(f"{GIVEN}/taxonomy.yaml", TAXONOMY.encode())
        yield made


@pytest.fixture(scope="module")
def kubeflow() -> Iterator[FakeKubeflow]:
    with kfp_server(node_address()) as fake:
        fake.states = ["RUNNING"]
        yield fake
        assert fake.violations == []


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys"))
    for name in ("ada", "bob", "cy"):
        made.public(name)
    return made


@pytest.fixture(scope="module")
def desk(
    store: World, kubeflow: FakeKubeflow, keys: Keys, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desk]:
    """A release with reconcile, in a namespace of its own."""
    folder = tmp_path_factory.mktemp("desk")
    file = approvers_file([person(keys, name, regions=["*"]) for name in ("ada", "bob", "cy")])
    (folder / "approvers.json").write_text(file)
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump(_values(store, kubeflow, json.loads(file))))
    install_crds(*chart_crds())
    install_safety_config_crd()
    advertise_gpus(1)
    with namespace() as space:
        release(
            "install", "cosalign", str(CHART), "-n", space, "-f", str(IMAGES), "-f", str(values),
            "--timeout", "10m",
        )  # fmt: skip
        around = Surroundings(account="cosalign-pipeline", environment=store.environment)
        install_launcher(space, around)
        yield Desk(folder, space, kubeflow, values, around, keys)


def _values(store: World, kubeflow: FakeKubeflow, approvers: Object) -> Object:
    weekly = {
        **PROFILE,
        "models": {
            "base": f"{GIVEN}/tiny",
            "engine": {"max_model_len": 4096, "kv_cache_gib": 1, "flush_rows": 4},
        },
        "taxonomy": {**FAIR, "files": [f"{GIVEN}/taxonomy.yaml"]},
        "prompts": {**PROFILE["prompts"], "files": [f"{GIVEN}/prompts.jsonl"]},
        "synthesis": {
            "generators": [{**generator, "max_tokens": 12} for generator in GENERATORS],
            "regional_share": 0.5,
        },
        "training": {"sft": STAGE, "dpo": {**STAGE, "learning_rate": 1.0e-4}},
        "evaluation": {
            "prompts_per_config": 4,
            "bootstrap": 100,
            "max_tokens": 12,
            "systems": ["ica", "dpo"],
        },
        "gate": LENIENT,
    }
    kept = {key: approvers[key] for key in ("installation", "people")}
    return {
        "storage": {"root": ROOT},
        "pipelines": {
            "store": "upload",
            "upload": {"host": kubeflow.url, "tokenAudience": ""},
            "parameters": {"shards": 1},
        },
        "pods": {"environment": store.environment},
        "runConfigs": {"weekly": weekly},
        "reconcile": {
            "enabled": True, "runConfig": "weekly", "approvers": kept, "host": kubeflow.url,
            # Old servers know no CronJob of batch/v1; its template is rendered beside the release.
            "schedule": "", "settleSeconds": 0, "tokenAudience": "",
            # A tiny model follows everything by a lenient gate: measured first, none would train.
            "policy": {"evaluate_first": False}, "increment": {"epochs": 1},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def story(desk: Desk) -> Desk:
    """From three configs to a model, and from a fourth to the next."""
    for config in THREE:
        desk.apply(config)
    for _ in range(3):
        desk.look()
    desk.seen["training"] = on_cluster("get", "safetyconfigs", "-n", desk.space)
    assert len(desk.kubeflow.runs) == 1
    desk.carry_out()
    desk.look()
    desk.seen["promoted"] = on_cluster("get", "safetyconfigs", "-n", desk.space, "-o", "wide")
    desk.kubeflow.states = ["RUNNING"]
    desk.apply(FOURTH)
    desk.look()
    desk.look()
    assert len(desk.kubeflow.runs) == 2
    desk.carry_out()
    desk.look()
    return desk


def test_the_hook_looked_once_after_the_install(desk: Desk) -> None:
    status = read("job", "cosalign-reconcile-now", "-n", desk.space)["status"]
    assert status["succeeded"] == 1


def test_three_configs_were_one_run(story: Desk) -> None:
    first = story.kubeflow.runs[0]
    labels = json.loads(first["description"])
    assert (labels["cosalign.dev/kind"], labels["cosalign.dev/reconcile"]) == ("full", "main")
    assert first["service_account"] == "cosalign-pipeline"
    rows = {line.split()[0]: line.split()[3] for line in story.seen["training"].splitlines()[1:]}
    assert rows == dict.fromkeys(("de-club", "mc-casino", "no-school"), "Training")


def test_kubectl_shows_region_form_phase_and_score(story: Desk) -> None:
    header, *rows = story.seen["promoted"].splitlines()
    assert header.split() == [
        "NAME", "REGION", "FORM", "DIGEST", "PHASE", "SCORE", "MODEL", "AGE",
    ]  # fmt: skip
    assert len(rows) == 3
    for row in rows:
        _, region, form, digest, phase, score, model, _ = row.split()
        assert (region in ("mc", "no", "de"), form, phase) == (True, "categorical", "Promoted")
        assert len(digest) == len(model) == 64
        assert -1 <= float(score) <= 1


def test_the_fourth_config_was_an_increment_of_the_first_run(story: Desk) -> None:
    labels = json.loads(story.kubeflow.runs[1]["description"])
    assert labels["cosalign.dev/kind"] == "increment"
    history = ModelPointer(open_storage(ROOT), "main").history()
    assert [entry.action for entry in history] == ["promote", "promote"]
    assert set(story.phases().values()) == {"Promoted"}
    assert story.condition("ie-pub", "Trained")["status"] == "True"
    accepted = AcceptedSet(open_storage(ROOT)).current()
    assert accepted is not None
    assert {config.followed_by for config in accepted.configs} == {history[-1].digest}
    assert {config.approvers for config in accepted.configs} == {("bob", "cy")}


def test_events_tell_the_story(story: Desk) -> None:
    events = read("events", "-n", story.space)["items"]
    told = {(e["involvedObject"]["name"], e["reason"]) for e in events
            if e["involvedObject"]["kind"] == "SafetyConfig"}  # fmt: skip
    for name in ("mc-casino", "ie-pub"):
        assert {(name, "Accepted"), (name, "Promoted")} <= told


def test_a_loosening_without_approvals_is_refused_and_what_was_accepted_stays(story: Desk) -> None:
    before = AcceptedSet(open_storage(ROOT)).current()
    wider = document("mc-casino", "gambling", "music", taxonomy=FAIR)
    annotations = read("safetyconfig", "mc-casino", "-n", story.space)["metadata"]["annotations"]
    wider["metadata"]["annotations"] = {ANNOTATION: annotations[ANNOTATION]}
    story.apply(wider, approved=False)
    log = story.look()
    assert "refused mc-casino" in log
    assert story.phases()["mc-casino"] == "Refused"
    refused = story.condition("mc-casino", "Refused")
    assert refused["status"] == "True"
    assert "stays in force" in refused["message"]
    after = AcceptedSet(open_storage(ROOT)).current()
    assert before is not None
    assert after is not None
    assert after.find("mc-casino", story.space) == before.find("mc-casino", story.space)
    assert len(story.kubeflow.runs) == 2


def test_a_config_of_both_forms_is_rejected_at_admission(story: Desk) -> None:
    both = document("de-both", text="Beer may be spoken of.")
    with pytest.raises(Failed, match="spec"):
        story.apply(both, approved=False)


def test_the_audit_log_is_whole_and_a_tampered_one_is_caught(story: Desk) -> None:
    storage = open_storage(ROOT)
    events = {entry.event for entry in AuditLog(storage).entries()}
    assert {"ConfigApproved", "ConfigsAccepted", "RunClaimed", "RunEnded", "Promoted"} <= events
    assert cosalign(["audit", "verify", "--root", ROOT]) == 0
    path = "audit/entries/00000002.json"
    row = storage.read_bytes(path)
    altered = {**json.loads(row), "by": "eve"}
    storage.write_bytes(path, json.dumps(altered).encode())
    try:
        assert cosalign(["audit", "verify", "--root", ROOT]) == 2
    finally:
        storage.write_bytes(path, row)
    assert cosalign(["audit", "verify", "--root", ROOT]) == 0


def test_nothing_of_a_policy_or_a_prompt_is_in_a_look_s_log(story: Desk) -> None:
    for log in story.logs:
        assert "allowedRisks" not in log
        assert "Traceback" not in log
