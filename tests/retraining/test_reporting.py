"""What is told of a tick: signed notices, metrics, a status, a page."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.retraining.reconcile_world import Lenient, World, document

from cosalign.domain.errors import ConfigError, DataError
from cosalign.pipelines.command_line import main as cosalign
from cosalign.retraining.notices import Outbox, Webhook
from cosalign.retraining.reconcile import Tick
from cosalign.retraining.reporting import Outside, report
from cosalign.retraining.status_file import Status, StatusFile
from cosalign.retraining.submitters import SubmittedRun
from cosalign.store.audit_log import AuditLog

BANK = document("eu-bank", "financial_crime_theft")
SCHOOL = document("no-school")
GAME = document("jp-game", "violence")
KEY = b"0123456789abcdef0123456789abcdef"
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path / "root"))


def told(world: World, count: int = 1, outside: Outside | None = None) -> tuple[Tick, Status]:
    for _ in range(count):
        tick = world.reconciler().tick()
        status = report(world.storage, tick, "main", outside or Outside())
    return tick, status


@dataclass
class Receiver:
    """A webhook's receiver: verifies signatures by the form's own description."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    taken: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def take(self, headers: Mapping[str, str], body: bytes) -> int:
        self.seen.append(headers["webhook-id"])
        signed = b".".join(
            [headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body]
        )
        mac = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{mac}"
        status = self.answers.pop(0) if self.answers else 204
        if status == 204:
            self.taken.append((headers["webhook-id"], json.loads(body)))
        return status


@contextmanager
def receiver() -> Iterator[Receiver]:
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = state.take({k.lower(): v for k, v in self.headers.items()}, body)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def types(notice: dict[str, Any]) -> list[str]:
    return [change["type"] for change in notice["data"]["changes"]]


def test_notices_tell_what_changed_and_are_signed(world: World) -> None:
    with receiver() as state:
        outside = Outside(webhook=Webhook(state.url, SECRET))
        world.wants(BANK, document("no-school", "no_such_risk"))
        told(world, 4, outside)
        notices = [notice for _, notice in state.taken]
        assert {notice["type"] for notice in notices} == {"cosalign.reconciled"}
        everything = [kind for notice in notices for kind in types(notice)]
        assert {"config.accepted", "config.refused", "config.evaluated", "config.promoted",
                "run.ended"} <= set(everything)  # fmt: skip
        assert len(everything) == len(set(everything))
        datetime.fromisoformat(notices[0]["timestamp"])


def test_no_policy_and_no_prompt_leaves_in_a_notice(world: World) -> None:
    words, question = "Beer may be spoken of, to adults.", "Which beer goes with fish?"
    item = {"prompt": question, "expect": "answer"}
    policy = document("ie-pub", text=words, acceptance=[item], description="About beer")
    del policy["spec"]["allowedRisks"]
    world.reader = Lenient()
    with receiver() as state:
        world.wants(policy)
        told(world, 3, Outside(webhook=Webhook(state.url, SECRET)))
        sent = json.dumps(state.taken)
    assert "ie-pub" in sent
    assert "beer" not in sent.lower()
    audit = "".join(entry.model_dump_json() for entry in AuditLog(world.storage).entries())
    status = world.storage.read_bytes("reconcile/main/status.json").decode()
    for text in (audit, status):
        assert "beer" not in text.lower()


def test_a_notice_that_nobody_took_is_sent_again_under_its_id(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    with receiver() as state:
        outside = Outside(webhook=Webhook(state.url, SECRET))
        state.answers = [503, 500, 429, 302]
        world.wants(BANK)
        world.submitter.carry_out = None
        told(world, 1, outside)
        assert state.taken == []
        assert len(Outbox(world.storage, "main").pending()) == 1
        told(world, 1, outside)
        assert len(state.taken) == 1
        assert state.taken[0][0] == state.seen[0]
        assert Outbox(world.storage, "main").pending() == []


def test_a_receiver_that_is_away_does_not_stop_anything(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    world.wants(BANK)
    _, status = told(world, 3, Outside(webhook=Webhook("http://127.0.0.1:1/hook", SECRET)))
    assert status.configs[0].phase == "Promoted"


@pytest.mark.parametrize("secret", ["hush", "whsec_", "whsec_aHVzaA==", "whsec_%%%"])
def test_a_secret_that_is_none_is_refused(secret: str) -> None:
    with pytest.raises(ConfigError, match="openssl rand"):
        assert Webhook("http://127.0.0.1:1", secret).key


def figures(text: str) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_say_what_the_status_says(world: World, tmp_path: Path) -> None:
    file = tmp_path / "metrics" / "cosalign.prom"
    world.worker.follows = lambda _, name: name != "jp-game"
    world.wants(BANK, SCHOOL, document("jp-game", "violence", training="evaluateOnly"))
    told(world, 4, Outside(metrics_file=file))
    found = figures(file.read_text())
    assert found["cosalign_configs[('phase', 'Promoted'), ('region', 'eu')]"] == 1
    assert found["cosalign_configs[('phase', 'NotFollowed'), ('region', 'jp')]"] == 1
    assert (
        found["cosalign_config_score[('name', 'eu-bank'), ('namespace', ''), ('region', 'eu')]"]
        == 0.4
    )
    assert found["cosalign_runs_active[('lane', 'train')]"] == 0
    assert found["cosalign_last_gate_failed[('lane', 'evaluate')]"] == 1
    assert found["cosalign_reconcile_last_success_timestamp_seconds[]"] > 1e9


def test_metrics_are_pushed_and_a_gateway_that_is_away_stops_nothing(world: World) -> None:
    taken: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            taken.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    world.wants(BANK)
    try:
        told(world, 1, Outside(pushgateway=f"http://127.0.0.1:{server.server_address[1]}"))
    finally:
        server.shutdown()
        server.server_close()
    (path, body) = taken[0]
    assert path == "/metrics/job/cosalign_reconcile/name/main"
    assert b"cosalign_accepted_set 1.0" in body
    told(world, 1, Outside(pushgateway="http://127.0.0.1:1"))


def test_the_status_shows_regions_by_phase(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.worker.follows = lambda _, name: name != "jp-game"
    world.wants(BANK, document("no-school", "no_such_risk"),
                document("jp-game", "violence", training="evaluateOnly"))  # fmt: skip
    told(world, 4)
    assert cosalign(["status", "--root", world.root]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[1]: line.split()[3] for line in lines if line[:2] in ("eu", "jp", "- ")}
    assert shown == {"eu-bank": "Promoted", "jp-game": "NotFollowed", "no-school": "Refused"}
    assert cosalign(["status", "--root", world.root, "--region", "eu", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert [c["phase"] for c in plain["configs"]] == ["Promoted", "NotFollowed", "Refused"]
    page = tmp_path / "status.html"
    assert cosalign(["status", "--root", world.root, "--html", str(page)]) == 0
    text = page.read_text()
    for word in ("eu-bank", "Not followed", "is no risk", "Refused"):
        assert word in text
    assert "http" not in text.replace("http-equiv", "")


def test_names_in_a_page_are_escaped(world: World, tmp_path: Path) -> None:
    world.wants(document("eu-bank", region="<script>alert(1)</script>"))
    told(world)
    page = tmp_path / "status.html"
    assert cosalign(["status", "--root", world.root, "--html", str(page)]) == 0
    assert "<script>" not in page.read_text()


def test_where_nothing_was_reconciled_the_status_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cosalign(["status", "--root", str(tmp_path)]) == 2
    assert "run cosalign reconcile" in capsys.readouterr().err


def test_a_torn_status_is_named(world: World) -> None:
    world.storage.write_bytes("reconcile/main/status.json", b"{")
    with pytest.raises(DataError, match="delete it"):
        StatusFile(world.storage, "main").read()


@pytest.mark.parametrize(
    ("ended", "phase", "reason"),
    [
        (SubmittedRun("", "failed", "exit code 2", wrong=True), "Failed", "RunFailed"),
        (SubmittedRun("", "cancelled"), "Failed", "RunFailed"),
    ],
)
def test_a_run_that_failed_is_seen_in_the_phase(
    world: World, ended: SubmittedRun, phase: str, reason: str
) -> None:
    world.worker.ends = [ended] * 5
    world.wants(BANK)
    _, status = told(world, 3)
    assert status.configs[0].phase == phase
    assert status.configs[0].condition("Promoted").reason == reason


def test_a_gate_that_failed_is_seen_in_the_phase(world: World) -> None:
    world.worker.follows = lambda *_: False
    world.wants(BANK)
    _, status = told(world, 3)
    assert status.configs[0].phase == "NotFollowed"
    assert status.configs[0].condition("Trained").reason == "SetAside"
    assert "unsafe_share:too_high" in status.configs[0].condition("Promoted").message


def test_a_config_that_nobody_trained_on_says_so(world: World) -> None:
    world.wants(BANK)
    told(world, 3)
    world.wants(BANK, SCHOOL)
    _, status = told(world, 3)
    school = status.by_key["", "no-school"]
    assert school.condition("Trained").reason == "NotNeeded"
    assert school.condition("Promoted").status == "True"
