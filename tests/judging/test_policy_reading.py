"""Policies read category by category: what a judge is sure of, what it is not, what is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cosalign.domain.config_change import Effect, PolicyReading, config_change
from cosalign.domain.errors import DataError
from cosalign.domain.run_config import EngineGroup
from cosalign.domain.safety_config import SafetyConfig, parse_safety_config
from cosalign.inference.double import FIRST_BYTE, DoubleEngine
from cosalign.inference.engine import Labelling, LabelRequest
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.judging.engine_judge import EngineJudge
from cosalign.judging.label_protocol import config_change_protocol, config_protocol
from cosalign.judging.policy_reading import JudgeReader
from cosalign.judging.stored_readings import ReadAs, ReadBy, StoredReadings
from cosalign.pipelines.command_line import main
from cosalign.runtime.safety_config_files import known_taxonomies
from cosalign.store.storage import open_storage

KNOWN = known_taxonomies()
COSA = KNOWN["cosa 1"]
VIOLENCE, WEAPONS = COSA.mask_of(["violence"]), COSA.mask_of(["weapons_explosives_arson"])


class Reader(DoubleEngine):
    """Finds a category permitted where a policy says ``+NAME``, and perhaps where ``?NAME``."""

    asked = 0

    def label(self, requests: Iterable[LabelRequest]) -> Iterator[Labelling]:
        for request in requests:
            type(self).asked += 1
            spelt = bytes(i - FIRST_BYTE for i in request.token_ids if i >= FIRST_BYTE).decode()
            policies = [part.partition("\n</POLICY>")[0] for part in spelt.split("<POLICY>\n")[1:]]
            shares = [self._share(policies, name) for name in COSA.names]
            masses = tuple((0.98 * (1 - share), 0.98 * share) for share in shares)
            if "mumble" in spelt:
                masses = tuple((1e-6, 1e-6) for _ in masses)
            answers = tuple(pair[-1] for pair in request.alphabets)
            yield Labelling(request.request_id, answers, masses)

    def _share(self, policies: list[str], name: str) -> float:
        found = [0.9 if f"+{name}" in p else 0.5 if f"?{name}" in p else 0.1 for p in policies]
        if len(found) == 1:
            return found[0]
        old, new = found
        # More often said is more permitted: "+violence +violence" is wider than "+violence".
        wider = policies[1].count(f"+{name}") > policies[0].count(f"+{name}")
        return 0.5 if 0.5 in (old, new) else 0.9 if wider else 0.1


def config(form: list[str] | str) -> SafetyConfig:
    key = "text" if isinstance(form, str) else "allowedRisks"
    spec = {"taxonomy": {"name": "cosa", "version": "1"}, "region": "de", key: form}
    document = {
        "apiVersion": "cosalign.dev/v1alpha1",
        "kind": "SafetyConfig",
        "metadata": {"name": "shop"},
        "spec": spec,
    }
    return parse_safety_config(json.dumps(document), "shop", KNOWN)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineHost]:
    def opened(model: ModelFolder, settings: EngineGroup) -> Reader:
        return Reader(model.digest, settings.max_model_len)

    monkeypatch.setattr("cosalign.inference.engine_host.open_engine", opened)
    monkeypatch.setattr(Reader, "asked", 0)
    with EngineHost(EngineGroup(kind="double", max_model_len=65536)) as host:
        yield host


def reader(root: Path, host: EngineHost, judge: str = "judge") -> JudgeReader:
    storage = open_storage(str(root))
    model = EngineJudge(host, storage, resolve_model(f"double:{judge}", root))
    return JudgeReader(model, StoredReadings(storage, KNOWN), KNOWN, (0.3, 0.7), 0.01)


@pytest.mark.parametrize(
    ("text", "may", "surely"),
    [
        ("Nothing.", 0, 0),
        ("We like +violence here.", VIOLENCE, VIOLENCE),
        ("+violence and ?weapons_explosives_arson", VIOLENCE | WEAPONS, VIOLENCE),
        ("mumble", COSA.full_mask, 0),
    ],
)
def test_what_is_not_sure_may_be_permitted(
    tmp_path: Path, engine: EngineHost, text: str, may: int, surely: int
) -> None:
    found = reader(tmp_path, engine).read(config(text), COSA)
    assert found == PolicyReading(may, surely, surely)
    stored = StoredReadings(open_storage(str(tmp_path)), KNOWN)
    assert stored.read(config(text), COSA) == found


@pytest.mark.parametrize(
    ("old", "new", "effect"),
    [
        ("+violence", "Nothing.", Effect.TIGHTENS),
        ("+violence +weapons_explosives_arson", "+violence", Effect.TIGHTENS),
        ("+violence", "+violence, on other days.", Effect.TIGHTENS),
        ("+violence", "+violence +violence", Effect.LOOSENS),
        ("+violence", "+violence +weapons_explosives_arson", Effect.LOOSENS),
        ("+violence", "?violence", Effect.LOOSENS),
        ("+violence", "mumble", Effect.LOOSENS),
        ("?violence", "+violence", Effect.LOOSENS),
        (["violence"], "+violence", Effect.TIGHTENS),
        (["violence"], "?violence", Effect.TIGHTENS),
        ([], "Nothing.", Effect.EDITS),
        ("Nothing.", [], Effect.EDITS),
        ("+violence", [], Effect.TIGHTENS),
        ([], "?violence", Effect.LOOSENS),
    ],
)
def test_changes_of_prose_are_judged_and_the_same_without_a_judge(
    tmp_path: Path, engine: EngineHost, old: Any, new: Any, effect: Effect
) -> None:
    before, after = config(old), config(new)
    asking = reader(tmp_path, engine)
    change = config_change(before, after, KNOWN, asking)
    assert change.effect is effect
    paid = Reader.asked
    stored = StoredReadings(open_storage(str(tmp_path)), KNOWN)
    assert config_change(before, after, KNOWN, stored) == change
    assert config_change(before, after, KNOWN, asking) == change
    assert Reader.asked == paid


def test_prose_against_a_categorical_set_is_compared_in_words(
    tmp_path: Path, engine: EngineHost
) -> None:
    """A policy may set conditions; the whole category is more than that, for all a judge knows."""
    change = config_change(
        config("mumble +violence"), config(["violence"]), KNOWN, reader(tmp_path, engine)
    )
    assert (change.effect, bool(change.doubts)) == (Effect.LOOSENS, True)


def test_of_several_judges_the_most_cautious_counts(tmp_path: Path, engine: EngineHost) -> None:
    text = "+violence"
    reader(tmp_path, engine).read(config(text), COSA)
    found = StoredReadings(open_storage(str(tmp_path)), KNOWN)
    other = ReadBy(
        judge="other", digest="o", tokenizer="", protocol="p", band=(0.3, 0.7), min_label_mass=0.01
    )
    found.keep_reading(text, COSA, other, PolicyReading(may=WEAPONS, surely=0))
    read = PolicyReading(may=VIOLENCE | WEAPONS, surely=0, found=VIOLENCE)
    assert found.read(config(text), COSA) == read
    found.keep_comparison(("a", text), COSA, other, WEAPONS)
    found.keep_comparison(("a", text), COSA, other.model_copy(update={"digest": "x"}), VIOLENCE)
    assert found.not_wider(config("a"), config(text), COSA) == 0


AS_RUN = ReadAs(judge="double:judge", band=(0.3, 0.7), min_label_mass=0.01)


@pytest.mark.parametrize(
    "other",
    [
        {"band": (0.0, 1.0)},
        {"band": (0.99, 1.0)},
        {"judge": "double:mild"},
        {"protocol": "p"},
        {"min_label_mass": 0.5},
    ],
)
def test_who_read_otherwise_than_the_run_config_says_does_not_count(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    stored = StoredReadings(open_storage(str(tmp_path)), KNOWN, AS_RUN)
    old, new = config("old"), config("new")

    def keep(reading: PolicyReading, not_wider: int, digest: str, **changed: Any) -> None:
        asked = {"band": AS_RUN.band, "judge": AS_RUN.judge, "min_label_mass": 0.01, **changed}
        for protocol in (config_protocol(COSA), config_change_protocol(COSA)):
            by = {"digest": digest, "tokenizer": "", "protocol": protocol.digest, **asked}
            made_by = ReadBy.model_validate_json(json.dumps(by))
            if protocol.id == "config":
                stored.keep_reading("new", COSA, made_by, reading)
                stored.keep_reading("old", COSA, made_by, reading)
            else:
                stored.keep_comparison(("old", "new"), COSA, made_by, not_wider)

    keep(PolicyReading(0, 0), COSA.full_mask, "d", **other)
    assert stored.read(new, COSA) == PolicyReading(COSA.full_mask, 0, None)
    assert config_change(old, new, KNOWN, stored).effect is Effect.LOOSENS
    # One reading that counts can find the catch-all, and no other can take that back.
    keep(PolicyReading(COSA.full_mask, COSA.catch_all), 0, "d")
    keep(PolicyReading(0, 0), COSA.full_mask, "e")
    assert stored.read(new, COSA) == PolicyReading(COSA.full_mask, 0, COSA.catch_all)
    assert config_change(old, new, KNOWN, stored).effect is Effect.LOOSENS


def test_what_nobody_read_may_permit_anything(tmp_path: Path) -> None:
    stored = StoredReadings(open_storage(str(tmp_path)), KNOWN)
    assert stored.read(config("a"), COSA) == PolicyReading(COSA.full_mask, 0)
    assert stored.not_wider(config("a"), config("b"), COSA) == 0


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"form": "cosalign-reading/2"}'])
def test_a_torn_reading_is_named(tmp_path: Path, engine: EngineHost, body: bytes) -> None:
    reader(tmp_path, engine).read(config("a"), COSA)
    (path,) = tmp_path.rglob("readings/*/*.json")
    path.write_bytes(body)
    with pytest.raises(DataError, match=path.name):
        StoredReadings(open_storage(str(tmp_path)), KNOWN).read(config("a"), COSA)


def test_judge_read_is_what_config_diff_goes_by(
    tmp_path: Path, engine: EngineHost, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {}
    for name, text in (("old", "+violence +privacy_violations"), ("new", "+violence")):
        files[name] = tmp_path / f"{name}.yaml"
        document = {
            "apiVersion": "cosalign.dev/v1alpha1", "kind": "SafetyConfig",
            "metadata": {"name": "shop"},
            "spec": {"taxonomy": {"name": "cosa", "version": "1"}, "region": "de", "text": text},
        }  # fmt: skip
        files[name].write_text(json.dumps(document))
    old, new = str(files["old"]), str(files["new"])
    root = str(tmp_path / "root")
    assert main(["config", "diff", old, new, "--readings", root]) == 12
    overrides = [f"storage.root={root}", "models.judge=double:judge", "models.engine.kind=double",
                 "models.engine.max_model_len=65536"]  # fmt: skip
    options = [option for override in overrides for option in ("--set", override)]
    assert main(["judge", "read", new, "--old", old, "--profile", "small", *options]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert ["violence", "yes", "yes", "yes"] in lines
    assert ["privacy_violations", "no", "no", "yes"] in lines
    assert main(["config", "diff", old, new, "--readings", root]) == 11
    assert main(["config", "diff", new, old, "--readings", root]) == 12
    # Of another judge than the profile's, it is no reading.
    assert main(["config", "diff", old, new, "--readings", root, "--profile", "small"]) == 12
