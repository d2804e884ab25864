"""The load of the gateway's benchmark: which answers it takes for the ones that it asked for."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from benchmarks.gateway import headline, percentiles
from benchmarks.stream_load import Call, Seen, http_post, load

PIECES = ["7:abc", " 7.1", " 7.2"]
DONE = "data: [DONE]\n\n"
ERROR = 'data: {"error": {"message": "the model server broke off"}}\n\n'


def streamed(*events: str) -> bytes:
    """An answer as it comes over the wire."""
    head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return (head + "".join(f"{len(e):x}\r\n{e}\r\n" for e in events) + "0\r\n\r\n").encode()


def pieces(*texts: str) -> list[str]:
    """Events of a stream: the role, texts, and why it ended."""
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""}, *({"content": text} for text in texts), {}
    ]  # fmt: skip
    return [f"data: {json.dumps({'choices': [{'index': 0, 'delta': d}]})}\n\n" for d in deltas]


def whole(text: str, status: str = "200 OK") -> bytes:
    """An answer that is no stream."""
    body = json.dumps({"id": "1", "choices": [{"message": {"content": text}}]})
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def seen_of(answer: bytes, *, stream: bool, texts: list[str] | None) -> Seen:
    """What a caller sees that gets an answer to its one request."""

    async def one() -> Seen:
        async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"{}")
                writer.write(answer)
                await reader.read()
            writer.close()

        server = await asyncio.start_server(answered, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            expected = None if texts is None else [text.encode() for text in texts]
            calls: Iterator[Call] = iter([Call(http_post("/v1", b"{}"), expected, stream)])
            return await load(port, 1, calls, lambda: False, 0.0)

    return asyncio.run(one())


@pytest.mark.parametrize(
    ("answer", "stream"),
    [(streamed(*pieces(*PIECES), DONE), True), (whole("".join(PIECES)), False)],
)
def test_an_answer_that_is_the_one_asked_for_counts(answer: bytes, stream: bool) -> None:
    texts = PIECES if stream else ["".join(PIECES)]
    seen = seen_of(answer, stream=stream, texts=texts)
    assert (seen.dropped, len(seen.whole)) == (0, 1)


@pytest.mark.parametrize(
    "events",
    [
        [*pieces(*PIECES[:1])[:-1], ERROR],
        [*pieces(*PIECES)[:2], ERROR, DONE],
        [*pieces(*PIECES), ERROR, DONE],
        pieces(*PIECES),
        [*pieces(*PIECES[:2]), DONE],
        [*pieces(*PIECES, " 7.3"), DONE],
        [*pieces("7:abc", " 8.1", " 7.2"), DONE],
        [*pieces("7:abc", " 7.2", " 7.1"), DONE],
        [*pieces("7:abd", " 7.1", " 7.2"), DONE],
        [DONE],
    ],
    ids=["broken off", "error", "error at the end", "no end", "too short", "too long",
         "another's piece", "out of order", "another prompt", "nothing"],
)  # fmt: skip
def test_a_stream_that_is_not_whole_and_exact_is_dropped(events: list[str]) -> None:
    seen = seen_of(streamed(*events), stream=True, texts=PIECES)
    assert (seen.wrong, seen.dropped, seen.whole) == (1, 1, [])


def test_of_a_real_model_the_end_is_checked() -> None:
    for events, dropped in (
        ([*pieces("Beer", " is"), DONE], 0),
        (pieces("Beer", " is"), 1),
        ([*pieces("Beer")[:2], ERROR, DONE], 1),
        ([DONE], 1),
    ):
        assert seen_of(streamed(*events), stream=True, texts=None).dropped == dropped


def test_what_is_refused_or_says_something_else_is_dropped() -> None:
    assert seen_of(whole("x", "503 Busy"), stream=False, texts=["x"]).refused == 1
    assert seen_of(whole("y"), stream=False, texts=["x"]).wrong == 1


def test_the_headline_counts_what_every_part_dropped() -> None:
    found = {
        "short": {"refused": 1, "mixed_up": 2, "broken": 4, "whole_per_s": 9},
        "paced": {"dropped": [8, 16], "first": {"added_ms": {"p50": 1.0, "p99": None}}},
        "soak": {"dropped": 32},
        "vllm": {"at_once_1": {"dropped": [64, 128]}, "at_once_4": {"dropped": [256, 512]}},
    }
    assert headline(found)["dropped"] == 1023


def test_a_percentile_that_few_requests_stand_behind_is_not_given() -> None:
    assert percentiles([0.001] * 39) == {"p50": 1.0, "p90": None, "p99": None}
    assert percentiles([0.001] * 1000) == {"p50": 1.0, "p90": 1.0, "p99": 1.0}
