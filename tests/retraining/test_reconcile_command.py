"""``cosalign reconcile`` as a CronJob and a person start it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.pipelines.conftest import two_step_spec
from tests.pipelines.kfp_server import FakeKubeflow, kfp_server
from tests.retraining.approval_world import Keys, approvers_file, person
from tests.retraining.reconcile_world import Worker, World, document

from cosalign.domain.config_change import PolicyReading
from cosalign.domain.errors import CosalignError, TransientError, UserError
from cosalign.judging.label_protocol import config_protocol
from cosalign.judging.stored_readings import ReadAs, ReadBy, StoredReadings
from cosalign.pipelines.command_line import main as cosalign
from cosalign.retraining.lane_step import RetryRules
from cosalign.retraining.local_submitter import LocalSubmitter
from cosalign.retraining.reconcile_setup import Reconciling
from cosalign.retraining.reporting import Outside
from cosalign.retraining.run_lock import run_lock
from cosalign.retraining.status_file import Status, StatusFile
from cosalign.retraining.submitters import RunOrder, SubmittedRun
from cosalign.runtime.run_config import load_run_config
from cosalign.runtime.safety_config_files import known_taxonomies
from cosalign.store.accepted_configs import AcceptedSet
from cosalign.store.audit_log import AuditLog
from cosalign.store.storage import GenerationMismatch, Storage, open_storage

WAIVED = "apiVersion: cosalign.dev/v1alpha1\nkind: Approvers\ninstallation: t\nrequired: false\n"


@pytest.fixture
def kubeflow() -> Iterator[FakeKubeflow]:
    with kfp_server() as fake:
        fake.states = ["RUNNING"]
        yield fake
        assert fake.violations == []


@dataclass
class Desk:
    """A folder of configs, a server, a bucket."""

    kubeflow: FakeKubeflow
    root: str
    folder: Path

    def write(self, *documents: dict[str, Any]) -> None:
        for found in documents:
            path = self.folder / "configs" / f"{found['metadata']['name']}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(yaml.safe_dump(found))

    @property
    def storage(self) -> Storage:
        return open_storage(self.root)

    def words(self, *more: str) -> list[str]:
        return ["reconcile", "--profile", "small", "--set", f"storage.root={self.root}",
                "--configs", str(self.folder / "configs"), "--settle-seconds", "0",
                "--approvers", str(self.folder / "approvers.yaml"), "--host", self.kubeflow.url,
                *more]  # fmt: skip

    def reconcile(self, *more: str) -> int:
        return cosalign(self.words(*more))

    def finish(self) -> None:
        """Carries out the newest run as a cluster would."""
        run = self.kubeflow.runs[-1]
        order = RunOrder(run["display_name"], "", run["runtime_config"]["parameters"])
        Worker(self.storage).write_results(order)
        self.kubeflow.states = ["SUCCEEDED"]

    def status(self) -> Status:
        found, _ = StatusFile(self.storage, "main").read()
        assert found is not None
        return found


@pytest.fixture
def desk(kubeflow: FakeKubeflow, gcs_root: str, tmp_path: Path) -> Desk:
    (tmp_path / "approvers.yaml").write_text(WAIVED)
    made = Desk(kubeflow, gcs_root, tmp_path)
    made.write(document("eu-bank", "financial_crime_theft"), document("no-school"))
    return made


def test_one_run_is_started_and_followed_to_a_promoted_model(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    image = "training_image=registry/training@sha256:1"
    for _ in range(3):
        more = ["-p", "node_selector={pool: a100}", "--service-account", "runner"]
        assert desk.reconcile("-p", image, "-p", "shards=2", *more) == 0
    (run,) = desk.kubeflow.runs
    sent = run["runtime_config"]["parameters"]
    assert (sent["training_image"], sent["shards"]) == ("registry/training@sha256:1", 2)
    assert sent["node_selector"] == sent["training_node_selector"] == {"pool": "a100"}
    assert run["service_account"] == "runner"
    labels = json.loads(run["description"])
    assert labels["cosalign.dev/reconcile"] == "main"
    assert labels["cosalign.dev/kind"] == "full"
    assert labels["cosalign.dev/config"] == sent["run_config_digest"]
    assert {c.phase for c in desk.status().configs} == {"Training"}
    desk.finish()
    assert desk.reconcile("-p", image, "-p", "shards=2") == 0
    assert {c.phase for c in desk.status().configs} == {"Promoted"}
    assert desk.reconcile() == 0
    assert len(desk.kubeflow.runs) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_server_that_is_away_is_no_defect_and_the_next_look_goes_on(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    url, desk.kubeflow.url = desk.kubeflow.url, "http://127.0.0.1:1"
    assert desk.reconcile() == 75
    desk.kubeflow.url = url
    desk.kubeflow.answers = [503] * 40
    assert desk.reconcile() == 75
    desk.kubeflow.answers = []
    assert desk.reconcile("--lease-seconds", "0") == 0
    assert len(desk.kubeflow.runs) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_double_on_the_server_is_ended(desk: Desk) -> None:
    assert desk.reconcile() == 0
    desk.kubeflow.runs.append({**desk.kubeflow.runs[0], "run_id": "r2", "state": "RUNNING",
                               "created_at": "2026-05-01T12:59:00Z"})  # fmt: skip
    assert desk.reconcile() == 0
    assert desk.kubeflow.terminated == ["r2"]


def test_processes_that_race_start_one_run(desk: Desk) -> None:
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(desk.reconcile())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) <= {0, 75}
    assert 0 in codes
    assert len(desk.kubeflow.runs) == 1
    assert len(desk.kubeflow.versions) == 1


def test_a_deployed_version_is_taken_and_one_that_is_not_there_refused(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.kubeflow.pipelines.append({"pipeline_id": "p1", "display_name": "cosalign"})
    desk.kubeflow.versions.append(
        {"pipeline_id": "p1", "pipeline_version_id": "v9", "display_name": "cosalign-1.0-abc"}
    )
    assert desk.reconcile("--version", "cosalign=cosalign-0.9-xyz") == 2
    assert "no version 'cosalign-0.9-xyz'" in capsys.readouterr().err
    options = ("--version", "cosalign=cosalign-1.0-abc", "--lease-seconds", "0")
    assert desk.reconcile(*options) == 0
    (run,) = desk.kubeflow.runs
    assert run["pipeline_version_reference"]["pipeline_version_id"] == "v9"
    assert desk.kubeflow.packages == []


def test_a_change_needs_its_approvals_and_nothing_is_done_without(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys").mkdir()
    keys = Keys(tmp_path / "keys")
    people = [person(keys, name, regions=["*"]) for name in ("ada", "bob", "cy")]
    (tmp_path / "approvers.yaml").write_text(approvers_file(people))
    assert desk.reconcile() == 0
    said = capsys.readouterr().out
    assert "refused eu-bank: ApprovalsMissing" in said
    assert desk.kubeflow.runs == []

    def sign(command: str, name: str, who: str) -> None:
        file = str(tmp_path / "configs" / f"{name}.yaml")
        author = ["--author", who] if command == "propose" else []
        words = ["config", command, file, "--root", desk.root, *author]
        words += ["--approvers", str(tmp_path / "approvers.yaml"), "--key", str(keys.made[who])]
        assert cosalign(words) == 0

    sign("propose", "eu-bank", "ada")
    sign("approve", "eu-bank", "bob")
    assert desk.reconcile() == 0
    assert "1 missing of 2" in capsys.readouterr().out
    assert desk.kubeflow.runs == []
    sign("approve", "eu-bank", "cy")
    assert desk.reconcile() == 0
    assert len(desk.kubeflow.runs) == 1
    accepted = AcceptedSet(desk.storage).current()
    assert accepted is not None
    (bank,) = accepted.configs
    assert bank.approvers == ("bob", "cy")
    desk.finish()
    assert desk.reconcile() == 0

    # A loosening of what is in force is refused, and what is in force stays.
    desk.write(document("eu-bank", "financial_crime_theft", "violence"))
    assert desk.reconcile() == 0
    bank_now = desk.status().by_key["", "eu-bank"]
    assert bank_now.phase == "Refused"
    assert "stays in force" in bank_now.condition("Refused").message
    accepted = AcceptedSet(desk.storage).current()
    assert accepted is not None
    assert accepted.configs == (
        bank.model_copy(update={"followed_by": accepted.configs[0].followed_by}),
    )
    assert len(desk.kubeflow.runs) == 1
    assert cosalign(["audit", "verify", "--root", desk.root]) == 0


def test_prose_is_admitted_on_readings_of_the_run_configs_judge_alone(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    prose = document("ie-pub", text="Beer may be spoken of.")
    del prose["spec"]["allowedRisks"]
    desk.write(prose)
    known = known_taxonomies()
    cosa = known["cosa 1"]
    own = ReadAs.of(load_run_config("small"))

    def read(digest: str, found: int, **other: Any) -> None:
        by = {"judge": own.judge, "digest": digest, "tokenizer": "", "band": own.band,
              "protocol": config_protocol(cosa).digest,
              "min_label_mass": own.min_label_mass}  # fmt: skip
        made_by = ReadBy.model_validate_json(json.dumps({**by, **other}))
        reading = PolicyReading(may=found, surely=found)
        StoredReadings(desk.storage, known).keep_reading(
            prose["spec"]["text"], cosa, made_by, reading
        )

    def reason() -> str:
        assert desk.reconcile("--lease-seconds", "0") == 0
        return desk.status().by_key["", "ie-pub"].condition("Accepted").reason

    assert reason() == "NotRead"
    assert "cosalign judge read FILE --profile RUN_CONFIG" in capsys.readouterr().out
    read("a", 0, band=(0.0, 1.0))
    read("a", 0, judge="double:mild")
    assert reason() == "NotRead"
    read("a", 0)
    assert reason() == "ApprovalsWaived"
    desk.write({**prose, "metadata": {"name": "ie-bar"}})
    read("b", cosa.catch_all)
    assert desk.reconcile() == 0
    bar = desk.status().by_key["", "ie-bar"]
    assert bar.condition("Refused").reason == "NeverAllowable"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--kubernetes"], "either --configs ADDRESS or --kubernetes"),
        (["-p", "shard=3"], "did you mean 'shards'"),
        (["-p", "shards"], "write NAME=VALUE"),
        (["--policy", "max_increment=3"], "did you mean 'max_increments'"),
        (["--policy", "max_increments=many"], "max_increments"),
        (["--increment", "previous=x"], "there is no such key"),
        (["--version", "train=x"], "no such pipeline"),
        (["--webhook", "https://example.org"], "COSALIGN_WEBHOOK_SECRET"),
        (["--set", "storage.root=/somewhere"], "which pods cannot read"),
        (["--set", "evaluation.systems=[ica]"], "gate.candidate"),
        (["--configs", "/no/such/folder"], "no *.yaml file there"),
        (["--approvers", "/no/such/file"], "no such file"),
    ],
)
def test_mistakes_are_found_before_anything_is_done(
    more: list[str], says: str, desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.reconcile(*more) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert desk.kubeflow.runs == []
    assert AcceptedSet(desk.storage).current() is None


def test_a_cluster_is_told_who_may_approve(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    words = desk.words()
    at = words.index("--approvers")
    assert cosalign(words[:at] + words[at + 2 :]) == 2
    assert "required: false" in capsys.readouterr().err


def test_on_ones_own_machine_nobody_is_asked_unless_somebody_was_before(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for found in (tmp_path / "configs").iterdir():
        found.unlink()
    desk.write(document("eu-bank", "violence", effectiveFrom="2099-01-01"))
    words = desk.words("--local")
    at = words.index("--approvers")
    unasked = words[:at] + words[at + 2 :]
    assert cosalign(unasked) == 0
    (tmp_path / "keys").mkdir()
    people = [person(Keys(tmp_path / "keys"), "ada")]
    (tmp_path / "approvers.yaml").write_text(approvers_file(people))
    assert cosalign(words) == 0
    capsys.readouterr()
    assert cosalign(unasked) == 2
    said = capsys.readouterr().err
    assert "name with --approvers" in said
    assert "required: false" in said
    # To waive them all the same is said in a file, which the log keeps.
    (tmp_path / "approvers.yaml").write_text(WAIVED)
    assert cosalign(words) == 0
    events = [entry.event for entry in AuditLog(desk.storage).entries()]
    assert events.count("ApproversChanged") == 2


def test_a_torn_file_takes_nothing_out_of_use(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.reconcile() == 0
    (desk.folder / "configs" / "no-school.yaml").write_text("apiVersion: cosalign.dev/v1alp: [")
    assert desk.reconcile() == 0
    assert "cannot be read" in capsys.readouterr().out
    accepted = AcceptedSet(desk.storage).current()
    assert accepted is not None
    assert [config.name for config in accepted.configs] == ["eu-bank", "no-school"]
    assert desk.status().problems != ()


def local(tmp_path: Path, spec: dict[str, Any]) -> tuple[LocalSubmitter, RunOrder]:
    pipeline = tmp_path / "pipeline.json"
    pipeline.write_text(json.dumps(spec))
    root = tmp_path / "root"
    config = tmp_path / "run.yaml"
    config.write_text(f"storage: {{root: {root}, cache: {tmp_path / 'cache'}}}\n")
    submitter = LocalSubmitter(open_storage(str(root)))
    return submitter, RunOrder("main-full-1", str(pipeline), {"run_config_uri": str(config)})


PARAMETERS = {name: {"parameterType": "STRING"} for name in ("run_config_uri", "run_config_digest")}


def spec_of(code: dict[str, str] | None = None) -> dict[str, Any]:
    spec = two_step_spec(code)
    spec["root"]["inputDefinitions"] = {"parameters": PARAMETERS}
    return spec


def test_a_local_run_is_carried_out_and_found_by_its_name(tmp_path: Path) -> None:
    submitter, order = local(tmp_path, spec_of())
    assert submitter.find(order.name) == []
    assert submitter.start(order) == order.name
    (found,) = submitter.find(order.name)
    assert (found.run_id, found.status) == ("main-full-1", "succeeded")
    assert submitter.look(order.name) == found


@pytest.mark.parametrize(("code", "wrong"), [(2, True), (75, False), (1, False)])
def test_a_local_run_that_fails_says_whose_fault_it_is(
    tmp_path: Path, code: int, wrong: bool
) -> None:
    submitter, order = local(tmp_path, spec_of({"first": f"import sys; sys.exit({code})"}))
    submitter.start(order)
    (found,) = submitter.find(order.name)
    assert (found.status, found.wrong) == ("failed", wrong)


def test_a_local_run_that_was_stopped_counts_as_none(tmp_path: Path) -> None:
    stop = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(30)"
    submitter, order = local(tmp_path, spec_of({"first": stop}))
    submitter.start(order)
    assert submitter.find(order.name) == []


@pytest.fixture(params=["folder", "bucket"])
def shared_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root: str = request.getfixturevalue("gcs_root") if request.param == "bucket" else str(tmp_path)
    return root


def test_while_a_run_is_carried_out_nobody_else_carries_it_out(
    shared_root: str, tmp_path: Path
) -> None:
    name, other = "main-full-1", LocalSubmitter(open_storage(shared_root))
    _, order = local(tmp_path, spec_of())
    assert other.find(name) == []
    with run_lock(open_storage(shared_root), name).held() as keep:
        keep()
        (found,) = other.find(name)
        assert found.status == "running"
        with pytest.raises(TransientError, match="another process"):
            other.start(order)
    assert other.find(name) == []
    other.start(order)
    (ended,) = other.find(name)
    assert ended.status == "succeeded"


def test_a_beat_whose_answer_was_lost_gives_no_run_up(gcs_root: str) -> None:
    storage = open_storage(gcs_root)
    with run_lock(storage, "main-full-1").held() as keep:
        (pulse,) = storage.list("runs/main-full-1")
        storage.write_bytes(pulse.path, storage.read_bytes(pulse.path))
        keep()
        keep()
    assert storage.list("runs/main-full-1") == []


def test_a_run_that_another_machine_took_over_is_given_up(gcs_root: str) -> None:
    storage = open_storage(gcs_root)
    with run_lock(storage, "main-full-1").held() as keep:
        (pulse,) = storage.list("runs/main-full-1")
        storage.write_bytes(pulse.path, b"another's")
        with pytest.raises(GenerationMismatch):
            keep()
    assert run_lock(storage, "main-full-1").taken()


def test_a_local_run_that_has_to_be_mended_is_a_mistake_of_whoever_started_it(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = desk.words("--local", "--set", "prompts.files=[/no/such.jsonl]")
    words[words.index(f"storage.root={desk.root}")] = f"storage.root={tmp_path / 'root'}"
    for _ in range(2):
        assert cosalign(words) == 2
        said = capsys.readouterr().err
        assert "run main-full-" in said
        assert "wrong: exit code 2" in said


@pytest.mark.parametrize(
    ("ended", "error"),
    [
        (SubmittedRun("", "failed", "out of memory"), TransientError),
        (SubmittedRun("", "failed", "exit code 2", wrong=True), UserError),
        (SubmittedRun("", "succeeded"), None),
    ],
)
def test_how_a_run_that_is_due_ended_is_how_a_local_reconcile_ends(
    tmp_path: Path, ended: SubmittedRun, error: type[CosalignError] | None
) -> None:
    world = World(str(tmp_path))
    world.settings = replace(world.settings, retry=RetryRules(3, 3600.0, 0.0))
    world.submitter.by_hand = True
    world.worker.ends = [ended]
    world.wants(document("eu-bank"))
    reconciling = Reconciling(world.storage, world.reconciler(), Outside())
    expected = pytest.raises(error, match=ended.message) if error else nullcontext()
    with expected:
        list(reconciling.ticks())
    # What failed is nobody's concern any more once nothing is due.
    world.wants()
    list(Reconciling(world.storage, world.reconciler(), Outside()).ticks())
    assert world.started == ["full"]
