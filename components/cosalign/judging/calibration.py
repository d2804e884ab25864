"""Calibrations: what a judge's probabilities mean, learnt from labelled examples.

A judge's probability orders texts; that 0.7 means seven in ten is another matter, and where yes
begins differs from question to question. A calibration is made for one judge and one label protocol
(``cosalign judge calibrate``) and kept in a file. It is applied when tables are made, never when
verdicts are stored, so that another calibration costs no judgement; its digest is part of the
identity of every step that uses it, and a calibration of another judge or protocol is refused.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from cosalign.domain.errors import ConfigError, DataError
from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.domain.run_config import RunConfig, ScoringGroup
from cosalign.domain.validation import StrictModel, validated
from cosalign.judging.label_protocol import LabelProtocol
from cosalign.store.storage import read_uri

if TYPE_CHECKING:  # It knows of calibrations itself.
    from cosalign.judging.judge import JudgeIdentity

EDGE = 1e-6
"""Probabilities are kept this far from 0 and 1 before their logit is taken: float32's reach."""

MEASURED_FILE = "measured.json"
"""What a calibration was measured to be worth, beside it."""

FloatArray = npt.NDArray[np.float64]
Probability = Annotated[float, Field(ge=0, le=1)]


class ScaledMap(StrictModel):
    """Temperature scaling: ``sigmoid(logit(p) / temperature + bias)``.

    With temperature 1 and no bias, probabilities stay as they are (Guo et al. 2017; with the bias,
    Alexandari et al. 2020, for judges whose yes is too cheap or too dear as a whole).
    """

    kind: Literal["scaled"] = "scaled"
    temperature: float = Field(default=1.0, gt=0)
    bias: float = 0.0

    def apply(self, probability: FloatArray) -> FloatArray:
        """Maps probabilities; NaN stays NaN."""
        if self.temperature == 1 and self.bias == 0:
            return probability
        inside = np.clip(probability, EDGE, 1 - EDGE)
        logit = np.log(inside) - np.log1p(-inside)
        mapped: FloatArray = 1 / (1 + np.exp(-(logit / self.temperature + self.bias)))
        return mapped


class IsotonicMap(StrictModel):
    """A rising curve through knots, straight between them and flat beyond (Zadrozny, Elkan 2002).

    Attributes:
        x: Raw probabilities, rising strictly.
        y: What they mean, never falling.
    """

    kind: Literal["isotonic"] = "isotonic"
    x: tuple[Probability, ...] = Field(min_length=1)
    y: tuple[Probability, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.x) != len(self.y):
            raise ValueError("x and y must have as many values as each other")
        if np.any(np.diff(self.x) <= 0) or np.any(np.diff(self.y) < 0):
            raise ValueError("x must rise strictly and y must never fall")
        return self

    def apply(self, probability: FloatArray) -> FloatArray:
        """Maps probabilities; NaN stays NaN."""
        # Through a single knot np.interp is flat even for NaN.
        mapped = np.interp(probability, self.x, self.y)
        return np.where(np.isnan(probability), np.nan, mapped)


class QuestionCalibration(StrictModel):
    """One yes-or-no question.

    Attributes:
        map: From the judge's probability to a calibrated one.
        threshold: The calibrated probability from which on the answer is yes.
    """

    map: Annotated[ScaledMap | IsotonicMap, Field(discriminator="kind")]
    threshold: float = Field(gt=0, lt=1)


class CalibratedJudge(StrictModel):
    """The judge that a calibration is for."""

    uri: str
    digest: str
    tokenizer_digest: str


class CalibratedProtocol(StrictModel):
    """The label protocol that a calibration is for."""

    id: str
    version: str
    digest: str


class CalibrationSource(StrictModel):
    """What a calibration was learnt from: the examples' SHA-256 and how many were used."""

    digest: str
    rows: int = Field(ge=0)


class Calibration(StrictModel):
    """What one judge's probabilities mean under one label protocol.

    A question that is not named keeps its probability and the run config's threshold.
    """

    kind: Literal["Calibration"] = "Calibration"
    format: Literal["1"] = "1"
    judge: CalibratedJudge
    protocol: CalibratedProtocol
    examples: CalibrationSource
    questions: dict[str, QuestionCalibration]

    @cached_property
    def digest(self) -> str:
        """Identity of the calibration, 64 hex digits."""
        return fingerprint("calibration", self.model_dump(mode="json"))

    def apply(self, question: str, probability: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Calibrated probabilities of a question, in the given shape; NaN (unknown) stays NaN."""
        known = self.questions.get(question)
        if known is None:
            return probability.astype(np.float32)
        return known.map.apply(probability.astype(np.float64)).astype(np.float32)

    def threshold(self, question: str, default: float) -> float:
        """Where yes begins, in calibrated probability."""
        known = self.questions.get(question)
        return default if known is None else known.threshold

    def require(self, judge: JudgeIdentity, protocol: LabelProtocol, source: str) -> None:
        """Checks that the calibration is for this judge and this protocol.

        Raises:
            ConfigError: It is for another; the message says for which.
        """
        remedy = "run `cosalign judge calibrate` for it, or leave scoring.calibration out"
        if [self.judge.digest, self.judge.tokenizer_digest] != [
            judge.digest,
            judge.tokenizer_digest,
        ]:
            raise ConfigError(
                f"{source}: calibrates the judge {self.judge.uri} ({self.judge.digest[:12]}), and "
                f"the run is judged by {judge.uri} ({judge.digest[:12]}); {remedy}"
            )
        if self.protocol.digest != protocol.digest:
            raise ConfigError(
                f"{source}: calibrates the questions {self.protocol.id} {self.protocol.version} "
                f"({self.protocol.digest[:12]}), and the run asks {protocol.id} "
                f"{protocol.version} ({protocol.digest[:12]}): other criteria or another taxonomy; "
                f"{remedy}"
            )


def calibration_bytes(calibration: Calibration) -> bytes:
    """A calibration as a file: JSON that holds its own digest."""
    content = {**calibration.model_dump(mode="json"), "digest": calibration.digest}
    return f"{json.dumps(content, indent=2, sort_keys=True, allow_nan=False)}\n".encode()


def read_calibration(uri: str) -> Calibration:
    """Reads a calibration file, local or ``gs://``.

    Raises:
        DataError: It is missing, no calibration, or was altered after it was written.
    """
    try:
        content = json.loads(read_uri(uri))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{uri}: not a calibration; `cosalign judge calibrate` writes them")
    told = content.pop("digest", None)
    calibration = validated(Calibration, content, uri, DataError)
    if told != calibration.digest:
        raise DataError(
            f"{uri}: was altered after it was written (its digest is {calibration.digest[:12]}, "
            f"and it says {str(told)[:12]}); run `cosalign judge calibrate` again"
        )
    return calibration


def run_calibration(
    settings: ScoringGroup, judge: JudgeIdentity, protocol: LabelProtocol
) -> Calibration | None:
    """The calibration that a run names, checked against its judge; ``None`` where it names none.

    Raises:
        ConfigError: It is for another judge or protocol.
        DataError: The file is wrong.
    """
    if settings.calibration is None:
        return None
    calibration = read_calibration(settings.calibration)
    calibration.require(judge, protocol, settings.calibration)
    return calibration


def run_reliability(settings: ScoringGroup) -> list[dict[str, Any]]:
    """What was measured when a run's calibration was fitted, question by question.

    It stands in ``measured.json`` beside the calibration; empty where there is no calibration, or
    no such file of this one.

    Returns:
        ``question``, ``rows``, ``figures``, and the bins of the reliability diagram, ``raw_bins``
        and ``bins``.
    """
    uri = settings.calibration
    if uri is None:
        return []
    try:
        measured = json.loads(read_uri(uri.removesuffix(uri.rpartition("/")[2]) + MEASURED_FILE))
        if measured["digest"] != read_calibration(uri).digest:
            return []
        names = ("question", "rows", "figures", "raw_bins", "bins")
        return [{name: one[name] for name in names} for one in measured["questions"]]
    except (DataError, ValueError, KeyError, TypeError):
        return []


def scoring_identity(config: RunConfig) -> Json:
    """What a verdict depends on beside the judge: thresholds, and the calibration by content.

    Thresholds on prompts are left out, since labelling alone uses them.
    """
    settings = config.scoring
    dumped = settings.model_dump(mode="json", exclude={"prompt_thresholds", "calibration"})
    uri = settings.calibration
    return {**dumped, "calibration": None if uri is None else read_calibration(uri).digest}
