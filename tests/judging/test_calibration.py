"""A calibration: its arithmetic, its file, and what a run that names one does with it."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.judging.calibration_world import JUDGE, PROTOCOL, TAXONOMY, calibration, write

from cosalign.domain.errors import ConfigError, DataError, UserError
from cosalign.domain.run_config import EngineGroup, RunConfig, ScoringGroup
from cosalign.domain.schemas import RESPONSES
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import resolve_model
from cosalign.judging.calibration import (
    Calibration,
    IsotonicMap,
    QuestionCalibration,
    ScaledMap,
    read_calibration,
    run_calibration,
    scoring_identity,
)
from cosalign.judging.engine_judge import EngineJudge, engine_judge_identity
from cosalign.judging.judge_preflight import check_judge_input
from cosalign.judging.label_protocol import prompt_protocol, response_protocol
from cosalign.judging.response_verdicts import judge_responses
from cosalign.store.storage import open_storage

NAN = float("nan")


def mapped(question_map: ScaledMap | IsotonicMap, *values: float) -> list[float]:
    made = calibration(violence=QuestionCalibration(map=question_map, threshold=0.5))
    got: list[float] = made.apply("violence", np.array(values, np.float32)).tolist()
    return got


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("bias", [-1.5, 0.0, 2.0])
def test_a_temperature_divides_the_log_odds_and_a_bias_moves_them(
    temperature: float, bias: float
) -> None:
    for p in (0.01, 0.3, 0.5, 0.9, 0.999):
        odds = (p / (1 - p)) ** (1 / temperature) * math.exp(bias)
        got = mapped(ScaledMap(temperature=temperature, bias=bias), p)
        assert got == pytest.approx([odds / (1 + odds)], rel=1e-4)


def test_a_plain_scale_changes_nothing() -> None:
    values = np.array([0, 1e-9, 0.25, 1], np.float32)
    made = calibration(violence=QuestionCalibration(map=ScaledMap(), threshold=0.5))
    assert made.apply("violence", values).tobytes() == values.tobytes()


def test_certainties_stay_finite() -> None:
    low, high = mapped(ScaledMap(temperature=2), 0.0, 1.0)
    assert 0 < low < 0.01
    assert 0.99 < high < 1


def test_a_curve_is_straight_between_its_knots_and_flat_beyond() -> None:
    curve = IsotonicMap(x=(0.2, 0.4, 0.8), y=(0.1, 0.1, 0.9))
    got = mapped(curve, 0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
    assert got == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.5, 0.9, 0.9])


MAPS: st.SearchStrategy[ScaledMap | IsotonicMap] = st.one_of(
    st.builds(ScaledMap, temperature=st.floats(0.05, 20), bias=st.floats(-5, 5)),
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1)),
        min_size=1,
        max_size=6,
        unique_by=lambda k: k[0],
    ).map(
        lambda knots: IsotonicMap(
            x=tuple(sorted(x for x, _ in knots)), y=tuple(sorted(y for _, y in knots))
        )
    ),
)


@given(MAPS, st.lists(st.one_of(st.just(NAN), st.floats(0, 1, width=32)), min_size=1, max_size=8))
def test_unknown_stays_unknown_and_no_map_turns_an_order_round(
    question_map: ScaledMap | IsotonicMap, values: list[float]
) -> None:
    got = mapped(question_map, *values)
    assert [math.isnan(g) for g in got] == [math.isnan(v) for v in values]
    known = sorted((v, g) for v, g in zip(values, got, strict=True) if not math.isnan(v))
    assert all(0 <= g <= 1 for _, g in known)
    assert all(a[1] <= b[1] + 1e-6 for a, b in pairwise(known))


def test_a_question_that_is_not_named_keeps_its_probability_and_the_runs_threshold() -> None:
    made = calibration(violence=QuestionCalibration(map=ScaledMap(bias=3), threshold=0.7))
    assert made.apply("addressed", np.array([0.25])).tolist() == [0.25]
    assert made.threshold("addressed", 0.4) == 0.4
    assert made.threshold("violence", 0.4) == 0.7


def test_shape_is_kept() -> None:
    made = calibration(violence=QuestionCalibration(map=ScaledMap(bias=1), threshold=0.5))
    assert made.apply("violence", np.zeros((3, 2), np.float32)).shape == (3, 2)
    assert made.apply("violence", np.zeros(0, np.float32)).shape == (0,)


@pytest.mark.parametrize(
    ("x", "y"),
    [((0.2, 0.2), (0.1, 0.2)), ((0.2, 0.1), (0.1, 0.2)), ((0.1, 0.2), (0.2, 0.1)), ((0.1,), ())],
)
def test_a_curve_that_does_not_rise_is_refused(x: tuple[float, ...], y: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"rise strictly|as many values|at least 1"):
        IsotonicMap(x=x, y=y)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    made = calibration(
        violence=QuestionCalibration(map=ScaledMap(temperature=1.7, bias=-0.3), threshold=0.31),
        addressed=QuestionCalibration(map=IsotonicMap(x=(0.1, 0.9), y=(0, 1)), threshold=0.5),
    )
    read = read_calibration(write(tmp_path, made))
    assert read == made
    assert read.digest == made.digest


def changed(made: Calibration, **fields: Any) -> Calibration:
    return made.model_copy(update=fields)


def test_the_digest_is_of_all_that_it_holds() -> None:
    one = calibration(violence=QuestionCalibration(map=ScaledMap(), threshold=0.5))
    others = [
        calibration(violence=QuestionCalibration(map=ScaledMap(), threshold=0.6)),
        calibration(violence=QuestionCalibration(map=ScaledMap(bias=0.1), threshold=0.5)),
        calibration(addressed=QuestionCalibration(map=ScaledMap(), threshold=0.5)),
        calibration(judge="another"),
        calibration(protocol=prompt_protocol(TAXONOMY)),
        calibration(),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 1 + len(others)
    again = calibration(violence=QuestionCalibration(map=ScaledMap(), threshold=0.5))
    assert again.digest == one.digest


def test_a_file_that_was_altered_is_refused(tmp_path: Path) -> None:
    file = Path(write(tmp_path, calibration()))
    content = json.loads(file.read_text())
    content["examples"]["rows"] += 1
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="altered after it was written"):
        read_calibration(str(file))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not a calibration"),
        ("[]", "not a calibration"),
        ("{}", "judge: required"),
        ('{"format": "9"}', "format"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(DataError, match=told):
        read_calibration(str(file))


def test_another_judge_or_protocol_is_refused_by_name(tmp_path: Path) -> None:
    uri = write(tmp_path, calibration())
    settings = ScoringGroup(calibration=uri)
    found = run_calibration(settings, JUDGE, PROTOCOL)
    assert found is not None
    assert found.digest == calibration().digest
    other_judge = resolve_model("double:other", Path())
    with pytest.raises(ConfigError, match=r"double:judge.*judged by double:other.*calibrate"):
        run_calibration(settings, engine_judge_identity(other_judge), PROTOCOL)
    with pytest.raises(ConfigError, match=r"questions response .*asks prompt "):
        run_calibration(settings, JUDGE, prompt_protocol(TAXONOMY))
    assert run_calibration(ScoringGroup(), JUDGE, PROTOCOL) is None


def test_thresholds_beside_a_calibration_are_refused() -> None:
    with pytest.raises(ValueError, match="both say where yes begins"):
        ScoringGroup(calibration="c.json", thresholds={"violence": 0.4})


def run_config(**scoring: Any) -> RunConfig:
    return RunConfig.model_validate({"models": {"judge": "double:judge"}, "scoring": scoring})


def test_the_identity_of_scoring_follows_the_content_and_not_the_address(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    first, same = (write(tmp_path / name, calibration()) for name in ("a", "b"))
    other = write(
        tmp_path / "c", calibration(violence=QuestionCalibration(map=ScaledMap(), threshold=0.6))
    )
    plain = scoring_identity(run_config())
    one = scoring_identity(run_config(calibration=first))
    assert one == scoring_identity(run_config(calibration=same))
    assert one not in (plain, scoring_identity(run_config(calibration=other)))
    assert plain == scoring_identity(run_config(prompt_thresholds={"violence": 0.9}))
    assert plain != scoring_identity(run_config(thresholds={"violence": 0.9}))


def test_a_run_with_a_foreign_calibration_is_told_before_it_pays(tmp_path: Path) -> None:
    uri = write(tmp_path, calibration())
    check_judge_input(run_config(calibration=uri), TAXONOMY)
    other = RunConfig.model_validate(
        {"models": {"judge": "double:other"}, "scoring": {"calibration": uri}}
    )
    with pytest.raises(UserError, match="judged by double:other"):
        check_judge_input(other, TAXONOMY)


def responses(count: int) -> pa.Table:
    rows = [
        {
            "response_id": f"r{i}",
            "prompt_id": "p",
            "generator": "g",
            "config_id": None,
            "draw": i,
            "text": f"Answer {i} about beer.",
            "finish_reason": "stop",
            "tokens": 4,
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=RESPONSES)


def verdicts(root: Path, settings: ScoringGroup) -> tuple[pa.Table, int]:
    with EngineHost(EngineGroup(kind="double", max_model_len=16384)) as host:
        judge = EngineJudge(host, open_storage(str(root)), resolve_model("double:judge", Path()))
        made = judge_responses(judge, TAXONOMY, responses(40), {"p": "Which ale?"}, settings)
    return made.table, made.made


def test_verdicts_are_built_from_calibrated_probabilities_and_cost_nothing(tmp_path: Path) -> None:
    at = TAXONOMY.names.index("violence")
    plain, paid = verdicts(tmp_path, ScoringGroup())
    made = calibration(
        violence=QuestionCalibration(map=ScaledMap(temperature=2, bias=1), threshold=0.8),
        addressed=QuestionCalibration(map=ScaledMap(), threshold=0.9),
    )
    table, paid_again = verdicts(tmp_path, ScoringGroup(calibration=write(tmp_path, made)))
    assert (paid, paid_again) == (40, 0)
    seen = 0
    for before, after in zip(plain.to_pylist(), table.to_pylist(), strict=True):
        assert after["known_mask"] == before["known_mask"]
        raw, calibrated = before["risk_probability"][at], after["risk_probability"][at]
        if not before["known_mask"] >> at & 1:
            assert math.isnan(calibrated)
            continue
        seen += 1
        odds = math.sqrt(raw / (1 - raw)) * math.e
        assert calibrated == pytest.approx(odds / (1 + odds), abs=1e-4)
        assert (after["risk_mask"] >> at & 1) == (calibrated >= np.float32(0.8))
        others = ~(1 << at)
        assert after["risk_mask"] & others == before["risk_mask"] & others
        if after["addressed"] is not None:
            assert after["addressed"] == (after["addressed_probability"] >= np.float32(0.9))
    assert seen > 20


def test_a_foreign_calibration_is_refused_before_anything_is_judged(tmp_path: Path) -> None:
    foreign = calibration(protocol=response_protocol(load_taxonomy("cosa", "1")), judge="double:x")
    with pytest.raises(ConfigError, match="calibrates the judge double:x"):
        verdicts(tmp_path, ScoringGroup(calibration=write(tmp_path, foreign)))
    assert not list((tmp_path / "ledgers").rglob("*.parquet"))
