"""How much is taken, and what is left behind of a request: counts and digests, no texts."""

from __future__ import annotations

import json
import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.world import POLICIES, WAIT_SECONDS, Running, World, eventually

from cosalign.domain.errors import StorageError, StorageUnavailable
from cosalign.domain.safety_config import parse_safety_config
from cosalign.runtime.safety_config_files import known_taxonomies
from cosalign.serving.rate_limits import RateLimits, request_burst
from cosalign.serving.refusals import Refusal
from cosalign.serving.tenants import Limits, TenantEntry
from cosalign.store.local import LocalStorage
from cosalign.store.storage import GenerationMismatch


def tenant(**limits: int) -> TenantEntry:
    return TenantEntry(name="t", regions=("ie",), limits=Limits(**limits))


def taken(limits: RateLimits, who: TenantEntry) -> str:
    try:
        with limits.request(who):
            return "ok"
    except Refusal as refusal:
        return refusal.code if refusal.retry_after else "no time to wait is said"


@given(
    per_minute=st.integers(1, 2000),
    pauses=st.lists(st.floats(0, 30), min_size=1, max_size=200),
)
def test_no_more_requests_pass_than_rate_and_burst_allow(
    per_minute: int, pauses: list[float]
) -> None:
    now = 0.0
    limits, who = RateLimits(lambda: now), tenant(requests_per_minute=per_minute)
    passed = 0
    for pause in pauses:
        now += pause
        passed += taken(limits, who) == "ok"
    assert passed <= request_burst(who.limits) + per_minute * now / 60 + 1e-6
    assert passed >= 1


def test_tokens_are_taken_afterwards_and_come_back() -> None:
    now = 0.0
    limits, who = RateLimits(lambda: now), tenant(tokens_per_minute=600)
    assert taken(limits, who) == "ok"
    limits.spend(who, 900)
    assert taken(limits, who) == "rate_limit_exceeded"
    now = 31.0
    assert taken(limits, who) == "ok"


def test_requests_at_once_are_counted_and_tenants_apart() -> None:
    limits, one = RateLimits(lambda: 0.0), tenant(at_once=1)
    other = TenantEntry(name="other", regions=("ie",))
    with limits.request(one):
        assert taken(limits, one) == "too_many_requests_at_once"
        assert taken(limits, other) == "ok"
    assert taken(limits, one) == "ok"


def test_limits_reach_the_caller_as_429(installation: World) -> None:
    installation.tenant("pub", ["ie"], limits={"requests_per_minute": 10})
    with installation.gateway() as found:
        eventually(found.ready)
        assert found.ask("pub").status_code == 200
        answer = found.ask("pub")
        assert found.code(answer) == (429, "rate_limit_exceeded")
        assert int(answer.headers["retry-after"]) >= 1
        assert found.ask("school").status_code == 200


def is_refused(found: Running, tenant: str, words: int) -> bool:
    return found.ask(tenant, "a " * words + "b").status_code != 200


def test_a_long_prompt_is_refused_at_a_length_that_tells_nothing(installation: World) -> None:
    """Two tenants with configs of different length are refused at the same prompt."""
    installation.config("school-no", "no", POLICIES["no"] * 20)
    for name, region in (("pub", "ie"), ("school", "no")):
        installation.tenant(name, [region], limits={"prompt_tokens": 60})
    with installation.gateway() as found:
        eventually(found.ready)
        longest = {}
        for name in ("pub", "school"):
            longest[name] = bisect_left(range(80), 1, key=partial(is_refused, found, name))
            refused = found.ask(name, "a " * 80)
            assert found.code(refused) == (400, "prompt_too_long")
        assert 20 < longest["pub"] == longest["school"] < 60


def test_a_config_that_leaves_no_room_is_not_served_at_all(installation: World) -> None:
    installation.tenant("pub", ["ie"], limits={"prompt_tokens": 8000, "completion_tokens": 180})
    with installation.gateway() as found:
        eventually(found.ready)
        assert found.code(found.ask("pub", "x")) == (503, "config_unservable")
        assert not installation.upstream.asked


def rows(installation: World) -> list[dict[str, Any]]:
    files = sorted(installation.storage.rglob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def digest_of(installation: World, name: str) -> str:
    text = (installation.configs / f"{name}.yaml").read_text()
    return parse_safety_config(text, name, known_taxonomies()).digest


def test_each_request_leaves_one_row_of_digests_and_no_text(installation: World) -> None:
    with installation.gateway() as found:
        eventually(found.ready)
        answers = [found.ask("pub", "Tell me a secret of barrels.") for _ in range(3)]
        answers.append(found.ask("school", "Tell me a secret of barrels.", stream=True))
        refused = found.ask("pub", messages=[{"role": "system", "content": "secret of barrels"}])
        stranger = httpx.post(f"{found.url}/v1/chat/completions", json={})
    stored = {row["request"]: row for row in rows(installation)}
    assert len(stored) == 5
    row = stored[answers[0].headers["x-request-id"]]
    assert (row["tenant"], row["region"], row["code"]) == ("pub", "ie", "ok")
    assert row["config"] == digest_of(installation, "pub-ie")
    assert row["model"] == installation.model.digest
    assert row["credential"] == installation.keys["pub"].id
    assert row["answer_tokens"] == 4
    assert row["prompt_tokens"] == len(installation.upstream.asked[0]["prompt"])
    assert stored[answers[3].headers["x-request-id"]]["stream"] is True
    assert stored[refused.headers["x-request-id"]]["code"] == "role_not_allowed"
    # Strangers are counted and leave no row, or they could crowd out those of callers.
    assert stranger.headers["x-request-id"] not in stored
    everything = "".join(f.read_text() for f in installation.storage.rglob("*.jsonl"))
    assert "barrels" not in everything
    assert "beer" not in everything
    assert installation.keys["pub"].key not in everything


def test_storage_that_takes_no_rows_holds_no_request_up(installation: World) -> None:
    """Rows wait; where they are required and too many wait, requests are refused."""
    blocked = installation.storage / "audit"
    installation.storage.mkdir()
    blocked.write_text("a file where the folder should be")
    installation.settings["audit"] = {"required": True, "held_rows": 3}
    with installation.gateway() as found:
        eventually(found.ready)
        assert [found.ask("pub").status_code for _ in range(3)] == [200, 200, 200]
        assert found.code(found.ask("pub")) == (503, "audit_unavailable")
        asked = len(installation.upstream.asked)
        assert asked == 3
        blocked.unlink()
        eventually(lambda: found.ask("pub").status_code == 200)
    answered = [row for row in rows(installation) if row["code"] == "ok"]
    assert len(answered) == len(installation.upstream.asked)


def a_moment() -> None:
    time.sleep(0.1)


def hang_up(found: Running, meanwhile: Callable[[], object] = a_moment, **fields: Any) -> None:
    """Asks, does something while the model server is at work, and goes away."""
    body = {"model": "cosalign", "messages": [{"role": "user", "content": "Tell me of pubs."}]}
    key, port = found.world.keys["pub"].key, found.settings.listen.port
    request = httpx.Request(
        "POST", f"{found.url}/v1/chat/completions", json=body | fields,
        headers={"authorization": f"Bearer {key}"},
    )  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(f"POST {request.url.path} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        eventually(lambda: found.world.upstream.open == 1)
        meanwhile()
    eventually(lambda: found.world.upstream.open == 0)


def test_hanging_up_does_not_escape_the_row_the_metrics_and_the_limits(
    installation: World,
) -> None:
    installation.upstream.fault = lambda _: "hang"
    installation.tenant("pub", ["ie"], limits={"tokens_per_minute": 10})
    with installation.gateway() as found:
        eventually(found.ready)
        hang_up(found, max_tokens=5, n=2)
        (row,) = eventually(lambda: rows(installation))
        assert (row["code"], row["model"]) == ("hung_up", installation.model.digest)
        assert row["prompt_tokens"] == len(installation.upstream.asked[0]["prompt"]) > 10
        # Two answers; in a tenth of a second a server may have made more of each than was asked.
        assert row["answer_tokens"] == 10
        text = httpx.get(f"{found.admin}/metrics").text
        assert f'kind="prompt",tenant="pub"}} {row["prompt_tokens"]}.0' in text
        assert 'kind="answer",tenant="pub"} 10.0' in text
        assert found.code(found.ask("pub")) == (429, "rate_limit_exceeded")


def test_metrics_say_how_many_requests_are_being_answered(installation: World) -> None:
    def in_flight() -> float:
        lines = httpx.get(f"{found.admin}/metrics").text.splitlines()
        (line,) = (line for line in lines if line.startswith("cosalign_gateway_in_flight "))
        return float(line.split()[1])

    installation.upstream.fault = lambda _: "hang"
    with installation.gateway() as found:
        eventually(found.ready)
        assert in_flight() == 0
        hang_up(found, lambda: eventually(lambda: in_flight() == 1))
        eventually(lambda: in_flight() == 0)


def test_a_prompt_is_charged_when_it_is_sent(installation: World) -> None:
    """Or many at once would pass before the first of them counts."""
    installation.upstream.fault = lambda _: "hang"
    installation.tenant("pub", ["ie"], limits={"tokens_per_minute": 10})
    with installation.gateway() as found:
        eventually(found.ready)
        second: list[httpx.Response] = []
        hang_up(found, lambda: second.append(found.ask("pub")))
        assert found.code(second[0]) == (429, "rate_limit_exceeded")


def test_an_answer_that_does_not_come_in_time_counts_too(installation: World) -> None:
    installation.upstream.fault = lambda _: "hang"
    installation.settings["upstreams"] = {"total_seconds": 0.5}
    with installation.gateway() as found:
        eventually(found.ready)
        assert found.code(found.ask("pub")) == (504, "upstream_timeout")
        eventually(lambda: installation.upstream.hung_up == 1, "the model server was not told")
        (row,) = eventually(lambda: rows(installation))
    assert row["model"] == installation.model.digest
    assert row["prompt_tokens"] == len(installation.upstream.asked[0]["prompt"])
    assert row["answer_tokens"] == 4


def test_what_no_server_took_is_not_charged(installation: World) -> None:
    installation.upstream.fault = lambda _: 503
    installation.tenant("pub", ["ie"], limits={"tokens_per_minute": 10})
    with installation.gateway() as found:
        eventually(found.ready)
        assert found.code(found.ask("pub")) == (503, "overloaded")
        (row,) = eventually(lambda: rows(installation))
        assert (row["model"], row["prompt_tokens"], row["answer_tokens"]) == (None, 0, 0)
        installation.upstream.fault = lambda _: None
        assert found.ask("pub").status_code == 200


class Writes:
    """Writes of audit rows to a folder, in which a test may meddle; created, never replaced."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, meddle: Callable[[Callable[[], int]], int]
    ) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.count = 0
        write = LocalStorage.write_bytes

        def meddled(
            storage: LocalStorage, path: str, data: bytes, *, if_generation: int | None = None
        ) -> int:
            self.count += 1
            self.begun.set()
            if storage.stat(path) is not None and if_generation is None:
                raise StorageError(f"{path}: access refused (403)")
            return meddle(lambda: write(storage, path, data, if_generation=if_generation))

        monkeypatch.setattr(LocalStorage, "write_bytes", meddled)


def stored_once(installation: World, answers: list[httpx.Response]) -> bool:
    found = sorted(row["request"] for row in rows(installation))
    return found == sorted(answer.headers["x-request-id"] for answer in answers)


def test_a_gateway_that_ends_loses_no_rows_that_are_being_written(
    installation: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_is_slow(write: Callable[[], int]) -> int:
        if writes.count == 1:
            writes.go_on.wait(WAIT_SECONDS)
        writes.go_on.set()
        return write()

    writes = Writes(monkeypatch, first_is_slow)
    with installation.gateway() as found:
        eventually(found.ready)
        answers = [found.ask("pub")]
        assert writes.begun.wait(WAIT_SECONDS)
        answers += [found.ask("pub") for _ in range(5)]
        # In the midst of ending.
        threading.Timer(1, writes.go_on.set).start()
    assert stored_once(installation, answers)


@pytest.mark.parametrize("problem", [StorageUnavailable("x"), RuntimeError("x"), OSError("x")])
def test_rows_outlive_whatever_the_storage_raises(
    installation: World, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def third_works(write: Callable[[], int]) -> int:
        if writes.count < 3:
            raise problem
        return write()

    writes = Writes(monkeypatch, third_works)
    with installation.gateway() as found:
        eventually(found.ready)
        answers = [found.ask("pub")]
        eventually(lambda: stored_once(installation, answers), "the row was not written")
        eventually(lambda: not found.gateway.audit.waiting)
        assert not found.gateway.audit.lost


@pytest.mark.parametrize("problem", [StorageUnavailable("x"), GenerationMismatch("x")])
def test_a_write_that_arrived_and_failed_stops_no_other(
    installation: World, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    """Objects may be created and not replaced, as an append-only account's grant has it."""

    def first_fails_late(write: Callable[[], int]) -> int:
        write()
        if writes.count == 1:
            raise problem
        return 1

    writes = Writes(monkeypatch, first_fails_late)
    with installation.gateway() as found:
        eventually(found.ready)
        first = found.ask("pub").headers["x-request-id"]
        eventually(lambda: rows(installation))
        second = found.ask("pub").headers["x-request-id"]
        eventually(lambda: not found.gateway.audit.waiting)
    stored = [row["request"] for row in rows(installation)]
    # What the storage says is there is not written again.
    assert stored.count(first) == (1 if isinstance(problem, GenerationMismatch) else 2)
    assert stored.count(second) == 1


def test_rows_that_are_being_written_count_where_rows_are_required(
    installation: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(write: Callable[[], int]) -> int:
        writes.go_on.wait(WAIT_SECONDS)
        return write()

    writes = Writes(monkeypatch, hangs)
    installation.settings["audit"] = {"required": True, "held_rows": 3}
    with installation.gateway() as found:
        eventually(found.ready)
        assert found.ask("pub").status_code == 200
        assert writes.begun.wait(WAIT_SECONDS)
        assert [found.ask("pub").status_code for _ in range(2)] == [200, 200]
        assert found.code(found.ask("pub")) == (503, "audit_unavailable")
        writes.go_on.set()
        eventually(lambda: found.ask("pub").status_code == 200)


def test_metrics_count_by_tenant_config_and_code(installation: World) -> None:
    with installation.gateway() as found:
        eventually(found.ready)
        found.ask("pub")
        found.ask("pub", messages=[{"role": "system", "content": "x"}])
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: found.ask("school", stream=True), range(8)))
        text = httpx.get(f"{found.admin}/metrics").text
        config = httpx.get(f"{found.admin}/healthz")
    assert config.status_code == 200
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    counted = {name: float(value) for name, value in lines.items()}
    requests = "cosalign_gateway_requests_total"
    by_code = {name: n for name, n in counted.items() if name.startswith(requests)}
    assert sum(n for name, n in by_code.items() if 'tenant="school"' in name) == 8
    assert any('code="role_not_allowed"' in name for name in by_code)
    added = {name: n for name, n in counted.items() if "_added_seconds_count" in name}
    assert sorted(added.values()) == [1, 8]
    for name, tenant in (("pub-ie", "pub"), ("school-no", "school")):
        digest = digest_of(installation, name)[:12]
        assert (
            f'cosalign_gateway_added_seconds_count{{config="{digest}",tenant="{tenant}"}}' in added
        )
    assert counted[f'cosalign_gateway_model{{digest="{installation.model.digest[:12]}"}}'] == 1
    tokens = sum(n for name, n in counted.items() if 'kind="answer"' in name and "_total" in name)
    assert tokens == 4 + 8 * 4


@pytest.mark.parametrize("state", ["tenants", "configs", "model"])
def test_readiness_says_what_is_missing(installation: World, state: str) -> None:
    if state == "tenants":
        (installation.folder / "tenants.yaml").write_text("tenants: 1")
    if state == "configs":
        installation.settings["configs"] = {"addresses": ["gs:///none"], "kind": "files"}
    if state == "model":
        installation.upstream.models.clear()
    with installation.gateway() as found:
        answer = httpx.get(f"{found.admin}/readyz")
        assert answer.status_code == 503
        assert state in answer.text
        assert httpx.get(f"{found.admin}/healthz").status_code == 200


def test_nothing_of_a_text_is_logged(installation: World, capfd: Any, tmp_path: Path) -> None:
    with installation.gateway() as found:
        eventually(found.ready)
        found.ask("pub", "A secret of barrels.")
        found.ask("pub", "A secret of barrels.", messages=[{"role": "x", "content": "barrels"}])
        installation.upstream.fault = lambda _: 400
        found.ask("pub", "A secret of barrels.")
    said = capfd.readouterr()
    assert "gateway listens" in said.err + said.out
    assert "barrels" not in said.err + said.out
    assert "gambling odds" not in said.err + said.out
