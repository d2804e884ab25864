from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from cosalign.runtime.logs import FORBIDDEN, MAX_VALUE, TextInLogError, configure_logs, get_logger

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def json_logs(capsys: Captured) -> Iterator[None]:
    configure_logs(json_lines=True)
    yield
    structlog.reset_defaults()


def lines(capsys: Captured) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_an_event_with_named_values(capsys: Captured) -> None:
    get_logger("cosalign.scoring").info("rows_scored", rows=3, response_id="ab12")
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "rows_scored",
        "level": "info",
        "module": "cosalign.scoring",
        "rows": 3,
        "response_id": "ab12",
    }


def test_the_names_that_carry_texts() -> None:
    assert {"text", "prompt", "prompts", "response", "system", "chosen", "rejected"} <= FORBIDDEN


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
@pytest.mark.parametrize("value", ["Which odds?", ["Which odds?"], {"a": "b"}, b"x"])
def test_a_field_that_may_carry_a_text_is_refused(
    name: str, value: object, capsys: Captured
) -> None:
    with pytest.raises(TextInLogError, match=f"'{name}' may carry a text; log the id instead"):
        get_logger("x").info("event", **{name: value})
    assert capsys.readouterr().err == ""


def test_bound_and_contextual_fields_are_refused_too() -> None:
    with pytest.raises(TextInLogError):
        get_logger("x").bind(prompt="Which odds?").warning("event")
    with (
        structlog.contextvars.bound_contextvars(response="Two to one."),
        pytest.raises(TextInLogError),
    ):
        get_logger("x").info("event")


@pytest.mark.parametrize("value", [60, 0.5, None, True])
def test_counts_under_such_a_name_pass(value: object, capsys: Captured) -> None:
    get_logger("x").info("event", prompts=value, responses=value)
    (line,) = lines(capsys)
    assert (line["prompts"], line["responses"]) == (value, value)


def test_long_values_are_cut(capsys: Captured) -> None:
    get_logger("x").info("event", path="a" * 5000, short="b" * MAX_VALUE)
    (line,) = lines(capsys)
    assert line["path"] == "a" * MAX_VALUE + "..."
    assert line["short"] == "b" * MAX_VALUE


def test_debug_lines_are_silent(capsys: Captured) -> None:
    get_logger("x").debug("detail")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("wanted", "is_json"), [("json", True), ("text", False)])
def test_the_environment_chooses_the_form(
    wanted: str, is_json: bool, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSALIGN_LOG", wanted)
    configure_logs()
    get_logger("x").info("event", rows=3)
    line = capsys.readouterr().err
    assert line.startswith("{") == is_json
    assert "event" in line


def test_without_a_terminal_logs_are_json(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COSALIGN_LOG", raising=False)
    configure_logs()
    get_logger("x").info("event")
    assert lines(capsys)[0]["event"] == "event"
