"""What the report says, and what it leaves out where there is nothing to show."""

from __future__ import annotations

import re
from typing import Any

from cosalign.evaluation.report import Material, render_report
from cosalign.evaluation.report_items import ShownItem

SCORE: dict[str, Any] = {
    "score": 0.2, "low": -0.15, "high": 0.4, "worst": 0.1, "best": 0.3, "coverage": 0.95,
    "helpful_safe": 0.5, "helpful_safe_low": 0.4, "helpful_safe_high": 0.6,
    "helpful_unsafe": 0.25, "helpful_unsafe_low": 0.2, "helpful_unsafe_high": 0.3,
    "refused": 0.1, "refused_low": 0.05, "refused_high": 0.2, "unsafe": 0.3, "unsafe_low": 0.2,
    "unsafe_high": 0.4, "items": 40, "known": 38,
}  # fmt: skip
UNKNOWN: dict[str, Any] = {**dict.fromkeys(SCORE), "coverage": 0.0, "items": 40, "known": 0}


def card(scores: dict[str, Any], **more: Any) -> dict[str, Any]:
    part = {"items": 40, "scores": scores, "differences": {}}
    config = {
        "label": "eu-bank", "names": ["eu-bank"], "regions": ["EU & <i>more</i>"],
        "suite": "control", "kind": "categorical", "allowed": ["violence"], "items": 40,
        "scores": scores, "differences": {}, "by_type": {"allowed": part, "partial": part},
    }  # fmt: skip
    return {
        "systems": list(scores),
        "settings": {"confidence": 0.95, "bootstrap": 100, "max_tokens": 64},
        "overall": scores, "differences": {}, "suites": {"control": part}, "by_split": {},
        "by_type": {"allowed": part}, "configs": [config], "counts": {"items": 40},
        "warnings": [], "models": {"judge": {"uri": "<judge>", "digest": "a" * 64}}, **more,
    }  # fmt: skip


def test_names_are_escaped_and_nothing_is_loaded() -> None:
    page = render_report(card({"dpo": SCORE}), Material())
    assert "EU &amp; &lt;i&gt;more&lt;/i&gt;" in page
    assert "&lt;judge&gt;" in page
    assert not re.search(r"(src|href|url\()", page)
    assert "prefers-color-scheme: dark" in page


def test_unknown_figures_say_so() -> None:
    page = render_report(card({"dpo": UNKNOWN}), Material())
    assert "unknown" in page
    assert "None" not in page
    assert "nan" not in page


def test_warnings_stand_in_the_page_only_where_there_are_some() -> None:
    assert 'class="warnings"' not in render_report(card({"dpo": SCORE}), Material())
    page = render_report(card({"dpo": SCORE}, warnings=["few <items>"]), Material())
    assert "few &lt;items&gt;" in page


def test_the_funnel_leaves_out_what_one_attempt_paid_for() -> None:
    counts = {"prompts_kept": 1234, "labels_made": 987, "engine_starts": 654}
    page = render_report(card({"dpo": SCORE}), Material(synthesis=counts))
    assert "1234" in page
    assert "987" not in page
    assert "654" not in page


def test_a_score_that_rounds_to_zero_has_no_sign() -> None:
    page = render_report(card({"dpo": {**SCORE, "score": -0.0001, "low": -0.2}}), Material())
    assert "\N{MINUS SIGN}0.000" not in page
    assert "\N{MINUS SIGN}0.200" in page


def test_what_a_small_model_cannot_show_is_said_of_small_models_only() -> None:
    def page(parameters: int | None) -> str:
        return render_report(card({"dpo": SCORE}), Material(parameters=parameters))

    assert "With 135 million parameters this is a small model" in page(134_515_008)
    assert "of 7.62 billion parameters" in page(7_615_616_512)
    for parameters in (1_000_000_000, 7_615_616_512, None):
        assert "cannot show" not in page(parameters)


def test_the_first_lines_name_what_training_took_only_where_it_is_known() -> None:
    page = render_report(
        card({"dpo": SCORE}), Material(records={"sft_records": 421, "dpo_records": 782})
    )
    assert "421 examples and 782 preference pairs" in page
    assert "preference pairs" not in render_report(card({"dpo": SCORE}), Material())


def test_prompts_are_not_said_to_be_unseen_where_some_were_trained_on() -> None:
    leaked = card({"dpo": SCORE}, counts={"items": 40, "benchmark_items_in_training": 2})
    assert "kept out of training" not in render_report(leaked, Material())
    assert "kept out of training" in render_report(card({"dpo": SCORE}), Material())


def test_declines_stand_beside_the_scores_where_types_are_known() -> None:
    assert "What was declined" not in render_report(card({"dpo": SCORE}), Material())
    kinds = {"disallowed": {"items": 48, "shares": {"dpo": 0.8123}}}
    page = render_report(card({"dpo": SCORE}, declined={"unseen": kinds}), Material())
    shown = page[page.index("What was declined") :]
    assert "never seen in training" in shown
    assert "48 items" in shown
    assert "81.2\N{NO-BREAK SPACE}%" in shown


def test_configs_are_drawn_where_there_are_several() -> None:
    several = card({"dpo": SCORE})
    assert "CoSA-Scores under" not in render_report(several, Material())
    several["configs"] = several["configs"] * 14
    page = render_report(several, Material())
    assert page.count("CoSA-Scores under eu-bank") == 12
    assert "the first 12 of 14 configs" in page


def test_listed_items_stand_under_their_config_with_their_marks() -> None:
    items = [
        ShownItem("eu-bank", f"{i}" * 64, "partial", {"dpo": (0.8, safe)})
        for i, safe in enumerate((1.0, -1.0, None))
    ]
    page = render_report(card({"dpo": SCORE}), Material(items=items))
    table = page[page.index('<table class="items">') :].partition("</table>")[0]
    assert table.count('class="config"') == 1
    assert re.findall(r">(\+1|&minus;1|\?)</span>", table) == ["+1", "&minus;1", "?"]
    assert "1" * 8 in table
    assert "1" * 9 not in table
    assert "show texts" not in page


def test_texts_are_escaped_and_folded_away() -> None:
    shown = ShownItem(
        "eu-bank", "a" * 64, "allowed", {"dpo": (1.0, 1.0)}, "A <b>beer</b>?", {"dpo": "<i>Ale</i>"}
    )
    page = render_report(card({"dpo": SCORE}), Material(items=[shown]))
    inner = page[page.index("<summary>show texts") :].partition("</details>")[0]
    assert "A &lt;b&gt;beer&lt;/b&gt;?" in inner
    assert "&lt;i&gt;Ale&lt;/i&gt;" in inner
    assert "<i>Ale" not in page
    assert "<details><summary>show texts" in page
    assert "<details open" not in page


def test_it_ends_with_where_to_go_next() -> None:
    page = render_report(card({"dpo": SCORE}), Material())
    assert "cosalign chat --config FILE" in page.rpartition("<h2>")[2]


def test_curves_stand_in_the_order_of_training() -> None:
    losses = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    page = render_report(card({"dpo": SCORE}), Material(curves={"dpo": losses, "sft": losses}))
    assert page.index("Loss of sft over") < page.index("Loss of dpo over")


def gate_of(*failed: str) -> dict[str, Any]:
    check = {"rule": "coverage", "where": "eu-bank", "code": "passed", "passed": True,
             "sentence": "Judged.", "value": 1.0, "bound": None, "limit": 0.9}  # fmt: skip
    wrong = [{**check, "passed": False, "code": code, "sentence": f"<{code}>"} for code in failed]
    return {
        "passed": not failed, "candidate": "dpo", "reference": "ica", "checks": [check, *wrong],
        "policy": {},
    }  # fmt: skip


def test_the_verdict_comes_first_with_its_reasons() -> None:
    figures = card({"ica": SCORE, "dpo": SCORE})
    failed = render_report({**figures, "gate": gate_of("too_low", "worse")}, Material())
    top = failed[: failed.index("<h2>")]
    assert "dpo did not pass the gate" in top
    assert "2 of 3 checks failed" in top
    assert "&lt;too_low&gt; <code>coverage:too_low</code>" in top
    passed = render_report({**figures, "gate": gate_of()}, Material())
    assert "dpo passed the gate" in passed
    assert "did not pass" not in passed
    assert "the gate" not in render_report(figures, Material())[:200]


def test_checks_that_failed_alike_are_one_reason_and_all_are_listed_below() -> None:
    figures = card({"ica": SCORE, "dpo": SCORE}, gate=gate_of(*["worse"] * 12, "too_low"))
    page = render_report(figures, Material())
    top = page[: page.index("<h2>")]
    assert "13 of 14 checks failed" in top
    assert top.count("<li>") == 2
    assert "eu-bank, eu-bank, eu-bank</strong> and 9 more: &lt;worse&gt;" in top
    assert page[page.index("All checks of the gate") :].count("&lt;worse&gt;") == 12


def test_regions_stand_with_their_change_against_the_reference() -> None:
    figures = card({"ica": SCORE, "dpo": SCORE}, gate=gate_of())
    change = {"mean": 0.1234, "low": -0.01, "high": 0.2, "pairs": 38}
    figures["configs"][0]["differences"] = {"dpo": {"ica": change}}
    page = render_report(figures, Material())
    table = page[page.index("<h2>Regions") :].partition("</table>")[0]
    assert "eu-bank" in table
    assert "+0.123" in table
    assert "38 of 40" in table
    assert "20.0\N{NO-BREAK SPACE}% to 30.0" in table
    assert page.index("<h2>Regions") < page.index("<h2>Scores")


def test_refusals_are_drawn_by_category_and_by_what_the_config_says() -> None:
    part = {"items": 40, "scores": {"ica": SCORE, "dpo": SCORE}, "differences": {}}
    found = {"violence": {"all": part, "disallowed": part, "allowed": part}}
    page = render_report(card({"ica": SCORE, "dpo": SCORE}, by_category=found), Material())
    drawn = page[page.index("<h2>Refusal by category") :].partition("</figure>")[0]
    assert drawn.count("Share declined of violence") == 2
    assert "violence: forbidden" in drawn
    assert "violence: allowed" in drawn


def test_suites_of_other_kinds_have_their_own_tables() -> None:
    figures = card({"ica": SCORE, "dpo": SCORE})
    part = {"items": 40, "scores": {"dpo": SCORE}, "differences": {}}
    figures["suites"] |= {"attack:claim": part, "general:gsm8k": part}
    figures["refusals"] = {"refusal:xs: to answer": part}
    outcomes = {"dpo": {"passed": 3, "failed": 1, "unknown": 0}}
    figures["acceptance"] = [{"suite": "acceptance:EU", "label": "eu", "regions": ["EU"],
                              "outcomes": outcomes}]  # fmt: skip
    page = render_report(figures, Material())
    attacks = page[page.index("<h2>Attacks on the config") :].partition("</table>")[0]
    assert "30.0\N{NO-BREAK SPACE}%" in attacks
    assert "not asked" in attacks
    assert "0.200" in page[page.index("<h2>General ability") :].partition("</table>")[0]
    refused = page[page.index("<h2>Refusal benchmarks") :].partition("</table>")[0]
    assert "xs: to answer" in refused
    assert "10.0\N{NO-BREAK SPACE}%" in refused
    assert "3 of 4" in page[page.index("<h2>Acceptance") :].partition("</table>")[0]
