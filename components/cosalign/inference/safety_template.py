r"""A chat template that takes the safety config as an argument, made from a model's own.

A config is trained as the system message. Whoever serves the model wants to say it apart from the
conversation, which is the user's: ``chat_template_kwargs: {"safety_config": "…"}``. So a preamble
is put before the model's own template, which stays under it byte for byte. With the argument it
puts a system message first, and what follows renders as in training; without it nothing changes.

The preamble refuses, since a server that goes on would answer under the wrong config:

- a config beside a system or developer message: which of them rules would be the template's choice;
- a config that is empty or no text: somebody meant to give one;
- a config that spells one of the model's control tokens: a template gives text, and the server
  turns spellings in it into control tokens, so that ``<|im_end|>`` in a config would end its turn.
  Token ids alone could keep such text apart (``hf_tokenizer`` does); a template can only refuse. In
  messages the same spellings are not looked for: that is the serving's part, for any template.

A served model must stay the model that was paid for: as answers to messages are the same, a model's
digest counts an exported template as the one that it was made from (:func:`counted_template`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from cosalign.domain.errors import ModelError

ARGUMENT = "safety_config"
"""The name of the template's argument."""
TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPACE_MARK = "\u2581"
"""How sentencepiece vocabularies write a space."""

_HEAD = (
    "{#- cosalign: the argument safety_config, form 1; below is the template of SOURCE, as it was "
    "-#}\n{%- if safety_config is defined -%}\n{%- set cosalign_controls = "
)
# Every tag eats the white space around it but for the last, whose newline the engines take away
# (trim_blocks), so that a template that begins with white space keeps it.
_TAIL = """ -%}
{%- if safety_config is not string or not safety_config.strip() -%}
{{- raise_exception('safety_config must be the text of a safety config') -}}
{%- endif -%}
{%- for control in cosalign_controls -%}
{%- if control in safety_config -%}
{{- raise_exception('safety_config spells the control token ' ~ control) -}}
{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- if message['role'] in ['system', 'developer'] -%}
{{- raise_exception('give either safety_config or a system message, not both') -}}
{%- endif -%}
{%- endfor -%}
{%- set messages = [{'role': 'system', 'content': safety_config}] + (messages | list) -%}
{%- endif %}
"""
_OPENING = re.compile(
    re.escape(_HEAD).replace("SOURCE", f"({re.escape(TEMPLATE_FILE)}|{TOKENIZER_CONFIG})")
)


def with_safety_config(template: str, controls: Iterable[str], source: str = TEMPLATE_FILE) -> str:
    """A template with the preamble.

    Args:
        template: The model's own.
        controls: Spellings of the tokenizer's control tokens.
        source: The file that the template comes from.
    """
    return _preamble(_spellings(controls), source) + template


def _spellings(controls: Iterable[str]) -> list[str]:
    """Also as a text would write them, with spaces; sorted, so that equal models give equal files.

    Those that hold another one need no look of their own.
    """
    written = {form for text in controls for form in (text, text.replace(SPACE_MARK, " "))}
    named = sorted(form for form in written if form.strip())
    return [one for one in named if not any(other != one and other in one for other in named)]


def _preamble(controls: list[str], source: str) -> str:
    # JSON's string literals are Jinja's; letters stay themselves, since escapes of pairs differ.
    return f"{_HEAD.replace('SOURCE', source)}{json.dumps(controls, ensure_ascii=False)}{_TAIL}"


def own_template(template: str) -> tuple[str, str] | None:
    """The template that an exported one was made from, and its file; ``None`` for any other."""
    opening = _OPENING.match(template)
    if opening is None:
        return None
    try:
        controls, _ = json.JSONDecoder().raw_decode(template, opening.end())
    except ValueError:
        return None
    if not isinstance(controls, list) or not all(isinstance(item, str) for item in controls):
        return None
    preamble = _preamble(controls, opening[1])
    if not template.startswith(preamble):
        return None
    return template.removeprefix(preamble), opening[1]


def counted_template(folder: Path) -> str | None:
    """:func:`counted_sha256` of the template in a model's folder."""
    return counted_sha256((folder / TEMPLATE_FILE).read_bytes(), _config_bytes(folder))


def counted_sha256(template: bytes, tokenizer_config: bytes) -> str | None:
    """SHA-256 of what a model's digest counts as its ``chat_template.jinja``.

    It is the template that an exported one was made from; ``None`` where that stands in
    ``tokenizer_config.json``, which is counted by itself. The preamble is compared to the letter
    and the copy with its source, so that nothing else passes for uncounted.

    Args:
        template: The file's bytes.
        tokenizer_config: Those of ``tokenizer_config.json``; empty where there is none.
    """
    own = own_template(template.decode("utf-8", "surrogateescape"))
    if own is not None:
        text, source = own
        if source == TEMPLATE_FILE:
            template = text.encode("utf-8", "surrogateescape")
        elif text == _configured_template(tokenizer_config):
            return None
    return hashlib.sha256(template).hexdigest()


def export_template(folder: Path) -> bool:
    """Gives the model in a folder the argument; doing it twice changes nothing.

    Args:
        folder: The model's, with its tokenizer; ``chat_template.jinja`` is written into it.

    Returns:
        Whether the model takes the argument now. It does not where the vocabulary looks for control
        tokens in normalised text (none that is published does): what spells one there is not
        written in the text.

    Raises:
        ModelError: There is no chat template, or the tokenizer cannot be read.
    """
    from cosalign.inference.hf_tokenizer import HfTokenizer

    tokenizer = HfTokenizer(folder, "")
    if tokenizer.seams_give_way:
        return False
    file = folder / TEMPLATE_FILE
    source = TEMPLATE_FILE if file.is_file() else TOKENIZER_CONFIG
    found = (
        file.read_bytes().decode()
        if file.is_file()
        else _configured_template(_config_bytes(folder))
    )
    if found is None:
        raise ModelError(
            f"model {folder} has no chat template; put {TEMPLATE_FILE} into its folder"
        )
    template, source = own_template(found) or (found, source)
    exported = with_safety_config(template, tokenizer.controls, source)
    file.write_bytes(exported.encode())
    return True


def _config_bytes(folder: Path) -> bytes:
    file = folder / TOKENIZER_CONFIG
    return file.read_bytes() if file.is_file() else b""


def _configured_template(tokenizer_config: bytes) -> str | None:
    """The template in ``tokenizer_config.json``; of several named ones the default."""
    try:
        config = json.loads(tokenizer_config)
    except ValueError:
        return None
    found = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None
