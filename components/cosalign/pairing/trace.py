"""Where one pair comes from: source, licence, generators, verdicts, config, and the arithmetic.

All is read from the tables of the run that made the pair, and from the ledger row of each response;
texts only if they are asked for. The error is computed anew from the verdicts and held against the
one in the table, so that a trace is a check too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cosalign.domain.error_score import collapse, error_tenths, follows_error_tenths
from cosalign.domain.fingerprint import KEY_BYTES
from cosalign.domain.run_config import PairingGroup
from cosalign.domain.taxonomy import Taxonomy
from cosalign.inference.generation import response_ledger
from cosalign.pairing.pair_search import FoundPair, MadeRun
from cosalign.store.storage import Storage

TENTHS = 10
_SAMPLING = ("temperature", "top_p", "max_tokens")


@dataclass(frozen=True)
class Trace:
    """One pair and the rows that it comes from."""

    pair: FoundPair
    run: MadeRun
    taxonomy: Taxonomy

    def lines(self, texts: bool = False) -> Iterator[str]:
        """The trace as lines to show.

        Args:
            texts: Whether prompt, system prompt and responses are shown.

        Raises:
            DataError: A row that the pair names is not in the run's tables.
        """
        prompt, config = self._prompt(), self._config()
        yield f"pair {self.pair.pair_id}"
        yield f"  steps: {', '.join(f'{n} {f[:12]}' for n, f in self.run.steps.items())}"
        yield from _prompt_lines(prompt, self.taxonomy)
        yield from self._config_lines(config)
        for role in ("chosen", "rejected"):
            yield from self._response_lines(role, config)
        if texts:
            yield from _text_lines(prompt, config, self._texts())

    def _prompt(self) -> dict[str, Any]:
        return self.run.row("prompts", "prompt_id", self.pair.prompt_id)

    def _config(self) -> dict[str, Any]:
        return self.run.row("configs", "config_id", self.pair.config_id)

    def _texts(self) -> dict[str, str]:
        return {
            role: str(self.run.row("responses", "response_id", self.pair.response(role))["text"])
            for role in ("chosen", "rejected")
        }

    def _config_lines(self, config: Mapping[str, Any]) -> Iterator[str]:
        draw = self.run.draw(self.pair.prompt_id, self.pair.config_id)
        mask = config["allowed_mask"]
        allows = "free-form" if mask is None else f"allows {_names(self.taxonomy, mask)}"
        yield f"config {config['config_id']}"
        yield f"  {allows}; digest {config['digest']}; region {config['region'] or 'none'}"
        yield f"  rendering: {_rendering(config)}"
        yield f"  drawn for the prompt as: {draw.get('mode', 'regional') if draw else 'unknown'}"

    def _response_lines(self, role: str, config: Mapping[str, Any]) -> Iterator[str]:
        response_id = self.pair.response(role)
        response = self.run.row("responses", "response_id", response_id)
        verdict = self.run.row("verdicts", "response_id", response_id)
        yield f"{role} {response_id}"
        yield from self._origin_lines(response)
        yield f"  judge {verdict['judge'][:12]} ({self.run.settings['judge']})"
        calibration = self.run.settings["scoring"]["calibration"]
        if calibration is not None:
            yield f"  probabilities calibrated by {calibration}"
        yield f"  risks: {self._risk_words(verdict)}"
        addressed = self._p("addressed", verdict["addressed_probability"])
        yield f"  addressed: {_yes(verdict['addressed'])}{addressed}"
        yield f"  {self._arithmetic(role, verdict, config)}"

    def _risk_words(self, verdict: Mapping[str, Any]) -> str:
        words = []
        for bit, name in enumerate(self.taxonomy.names):
            known, found = verdict["known_mask"] >> bit & 1, verdict["risk_mask"] >> bit & 1
            word = f"{name} {_yes(bool(found) if known else None)}"
            words.append(word + self._p(name, verdict["risk_probability"][bit] if known else None))
        return ", ".join(words)

    def _p(self, label: str, probability: float | None) -> str:
        """A probability, with the threshold that it was held against where the run set it."""
        scoring = self.run.settings["scoring"]
        if probability is None or scoring["calibration"] is not None:
            return _p(probability)
        threshold = scoring["thresholds"].get(label, scoring["threshold"])
        return f" (p {probability:.3f}, yes from {threshold:g})"

    def _origin_lines(self, response: Mapping[str, Any]) -> Iterator[str]:
        written = self.run.generator(response["generator"])
        if written is not None and written.replies:
            yield f"  written by people: {response['generator']} ({written.replies})"
        else:
            model = (written.model if written else None) or self.run.settings["base"]
            yield f"  generator {response['generator']} ({model}), draw {response['draw']}"
        if written is not None and not written.replies:
            sampling = ", ".join(f"{name} {getattr(written, name)}" for name in _SAMPLING)
            yield f"  sampling: {sampling}"
        yield f"  conditioned on config: {response['config_id'] or 'none, a plain system prompt'}"
        yield f"  {response['tokens']} tokens, ended by {response['finish_reason']}"
        yield from _ledger_lines(response, self.run.storage)

    def _arithmetic(self, role: str, verdict: Mapping[str, Any], config: Mapping[str, Any]) -> str:
        stored, group = self.pair.error(role), self.run.pairing
        if config["allowed_mask"] is None:
            terms, error = self._follows_terms(verdict, config, group)
        else:
            terms, error = _risk_terms(verdict, config["allowed_mask"], self.taxonomy, group)
        text = f"error = {terms} = {_tenths(error)}" if error is not None else f"error: {terms}"
        agrees = error is None or error == stored
        return text if agrees else f"{text}; THE TABLE SAYS {_tenths(stored)}"

    def _follows_terms(
        self, verdict: Mapping[str, Any], config: Mapping[str, Any], group: PairingGroup
    ) -> tuple[str, int | None]:
        row = self.run.follows(verdict["response_id"], config["config_id"])
        if row is None or row["follows"] is None:
            return "whether it follows the policy is unknown", None
        w, addressed = group.weights, bool(verdict["addressed"])
        terms = (
            f"{_tenths(w.beta)} x {int(not row['follows'])} breaks the policy"
            f" (follows it with p {row['follows_probability']:.3f}) + {_tenths(w.gamma)} x "
            f"{int(not addressed)} not addressed"
        )
        return terms, follows_error_tenths(row["follows"], addressed, w)


def _rendering(config: Mapping[str, Any]) -> str:
    if not config["template"]:
        return "its own text"
    return f"template {config['template']}, order {config['order'] or 'none'}"


def open_trace(pair: FoundPair, run: MadeRun) -> Trace:
    """The trace of a found pair, in the taxonomy of its run."""
    return Trace(pair, run, run.taxonomy)


def _risk_terms(
    verdict: Mapping[str, Any], allowed: int, taxonomy: Taxonomy, group: PairingGroup
) -> tuple[str, int]:
    pool = taxonomy.full_mask if group.pool is None else taxonomy.mask_of(group.pool)
    risks = collapse(verdict["risk_mask"], pool, taxonomy.catch_all)
    w, addressed = group.weights, bool(verdict["addressed"])
    inside, outside = risks & allowed, risks & ~allowed
    terms = (
        f"{_tenths(w.alpha)} x {inside.bit_count()} allowed{_in_brackets(taxonomy, inside)} + "
        f"{_tenths(w.beta)} x {outside.bit_count()} not allowed{_in_brackets(taxonomy, outside)} + "
        f"{_tenths(w.gamma)} x {int(not addressed)} not addressed"
    )
    return terms, error_tenths(risks, addressed, allowed, w)


def _prompt_lines(prompt: Mapping[str, Any], taxonomy: Taxonomy) -> Iterator[str]:
    yield f"prompt {prompt['prompt_id']}"
    licence = prompt["licence"] or "not recorded"
    yield f"  source {prompt['source']}; licence {licence}; split {prompt['split']}"
    yield f"  labels: {_names(taxonomy, prompt['risk_mask'])}"


def _ledger_lines(response: Mapping[str, Any], storage: Storage) -> Iterator[str]:
    ledger, key = response_ledger(storage), str(response["response_id"])
    keys = [bytes.fromhex(key)] if _is_key(key) else []
    if not keys or ledger.missing(keys):
        yield "  ledger: no row, so no model was paid for it here"
        return
    row = ledger.read(keys).to_pylist()[0]
    made = datetime.fromtimestamp(row["created"] / 1e9, UTC).isoformat(timespec="seconds")
    yield f"  ledger key {key}: {row['engine']}, {row['dtype']}, {made}"


def _text_lines(
    prompt: Mapping[str, Any], config: Mapping[str, Any], texts: Mapping[str, str]
) -> Iterator[str]:
    named = {"prompt": prompt["text"], "system prompt": config["text"], **texts}
    for name, text in named.items():
        yield f"--- {name}"
        yield _printable(str(text))


def _printable(text: str) -> str:
    """Without control characters: what a model writes must not steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _names(taxonomy: Taxonomy, mask: int) -> str:
    return ", ".join(taxonomy.names_of(mask)) or "no risk"


def _in_brackets(taxonomy: Taxonomy, mask: int) -> str:
    return f" ({', '.join(taxonomy.names_of(mask))})" if mask else ""


def _yes(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"


def _p(probability: float | None) -> str:
    return "" if probability is None else f" (p {probability:.3f})"


def _tenths(value: int) -> str:
    return f"{value / TENTHS:g}"


def _is_key(response_id: str) -> bool:
    digits = len(response_id) == 2 * KEY_BYTES
    return digits and all(digit in "0123456789abcdef" for digit in response_id)
