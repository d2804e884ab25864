"""One engine at a time, and none that nobody asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cosalign.domain.errors import EngineUnavailable
from cosalign.domain.run_config import EngineGroup
from cosalign.inference.double import DoubleEngine
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder, resolve_model

ONE, OTHER = (resolve_model(f"double:{name}", Path()) for name in ("one", "other"))


class Diary:
    """Opens engines and writes down what is opened and closed, and in which order."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.broken = False

    def open(self, model: ModelFolder, settings: EngineGroup) -> DiaryEngine:
        if self.broken:
            raise EngineUnavailable("it did not start")
        self.entries.append(f"open {model.uri}")
        return DiaryEngine(self, model)


class DiaryEngine(DoubleEngine):
    def __init__(self, diary: Diary, model: ModelFolder) -> None:
        super().__init__(model.digest)
        self._diary, self._uri = diary, model.uri

    def close(self) -> None:
        self._diary.entries.append(f"close {self._uri}")
        super().close()


@pytest.fixture
def diary(monkeypatch: pytest.MonkeyPatch) -> Diary:
    made = Diary()
    monkeypatch.setattr("cosalign.inference.engine_host.open_engine", made.open)
    return made


def host() -> EngineHost:
    return EngineHost(EngineGroup(kind="double"))


def test_an_engine_nobody_asks_for_is_not_started(diary: Diary) -> None:
    with host() as idle:
        assert idle.starts == 0
    assert diary.entries == []


def test_one_model_is_started_once(diary: Diary) -> None:
    with host() as held:
        assert held.engine(ONE) is held.engine(ONE)
        assert held.engine(replace(ONE, uri="double:same", path=Path("x"))) is held.engine(ONE)
        assert held.starts == 1
    assert diary.entries == ["open double:one", "close double:one"]


def test_another_model_closes_the_one_before(diary: Diary) -> None:
    with host() as held:
        held.engine(ONE)
        assert held.engine(OTHER).model_digest == OTHER.digest
        held.engine(ONE)
        assert held.starts == 3
    assert diary.entries == [
        "open double:one", "close double:one", "open double:other", "close double:other",
        "open double:one", "close double:one",
    ]  # fmt: skip


def test_an_engine_is_closed_when_its_user_fails(diary: Diary) -> None:
    with pytest.raises(ZeroDivisionError), host() as held:
        held.engine(ONE)
        _ = 1 / 0
    assert diary.entries[-1] == "close double:one"


def test_closing_twice_closes_once(diary: Diary) -> None:
    held = host()
    held.engine(ONE)
    held.close()
    held.close()
    assert diary.entries == ["open double:one", "close double:one"]


def test_a_closed_host_starts_anew(diary: Diary) -> None:
    held = host()
    held.engine(ONE)
    held.close()
    held.engine(ONE)
    assert held.starts == 2


def test_a_start_that_fails_leaves_nothing_running(diary: Diary) -> None:
    held = host()
    held.engine(ONE)
    diary.broken = True
    with pytest.raises(EngineUnavailable):
        held.engine(OTHER)
    diary.broken = False
    # The first engine was closed for the second; asked for again, it is started again.
    assert held.engine(ONE).model_digest == ONE.digest
    assert held.starts == 2
    assert diary.entries == ["open double:one", "close double:one", "open double:one"]
