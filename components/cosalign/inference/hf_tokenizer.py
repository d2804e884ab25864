r"""A model's own tokenizer, with untrusted text kept apart from control tokens.

Chat templates are string templates: whatever spells ``<|im_end|>`` in a prompt becomes the end of
a turn once the rendered string is tokenised. Training, on the other hand, tokenises the rendered
string as a whole, and a model must be asked in the tokens that it was taught in; encoding message
by message would differ wherever a pre-tokenizer merges across a seam (``"user\n"`` and
``"\nfoo"`` share one token).

So the whole string is encoded first, and its control tokens are compared with those of the
template alone. Where they are the same, which is any ordinary text, the ids are exactly those of
``apply_chat_template(tokenize=True)``. Where a content spells a control token, the string is cut
at the template's own control tokens, and all that lies between is encoded as plain text. Only text
that attacks can therefore be tokenised otherwise than in training. (A few vocabularies look for
control tokens in normalised text, where a content can undo the one beside it. There the string is
always cut.)

``split_special_tokens`` covers special tokens only; vocabularies also hold markers that are added
and not special (``<tool_call>``). Those are broken up after their first character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from os.path import commonprefix
from pathlib import Path
from typing import Any, cast

from cosalign.domain.errors import ModelError
from cosalign.inference.double import DoubleTokenizer, double_tokenizer_digest
from cosalign.inference.engine import TokenIds, Tokenizer
from cosalign.inference.models import ModelFolder
from cosalign.inference.served_model import MessageTokenizer, message_tokenizer_digest

# Private-use characters: no template writes them. A content that holds them does no harm, since
# contents are put in after the marks have been found.
_MARK = "\ue0f0{}\ue0f1"
SHORTEST_HEAD = 64
"""Characters; tokenising less than this twice costs nothing."""
HEADS_KEPT = 256

_MARKS = re.compile("\ue0f0(\\d+)\ue0f1")


class HfTokenizer:
    """A transformers tokenizer behind :class:`cosalign.inference.engine.Tokenizer`.

    Attributes:
        controls: How its control tokens are spelt.
        seams_give_way: Whether a content can alter a control token that stands beside it.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._digest = digest
        self._folder = folder
        self._tokenizer = _load(folder)
        controls = _control_tokens(self._tokenizer)
        self.controls = frozenset(controls)
        self._control_ids = frozenset(controls.values())
        longest_first = sorted(controls, key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._template = lru_cache(maxsize=64)(self._render_marks)
        self._heads: dict[str, TokenIds | None] = {}
        self._bare_controls = lru_cache(maxsize=64)(self._controls_of_template)
        self.seams_give_way = _seams_give_way(self._tokenizer)

    @property
    def digest(self) -> str:
        """See :class:`cosalign.inference.engine.Tokenizer`."""
        return self._digest

    def encode_plain(self, text: str) -> TokenIds:
        """See :class:`cosalign.inference.engine.Tokenizer`."""
        text = _without_surrogates(text)
        ids = self._ids(text, split_special_tokens=True)
        if self._control_ids.isdisjoint(ids):
            return ids
        ids = self._join(self._broken_up(text))
        # A normaliser may spell a control token out of other characters; single ones it cannot.
        return ids if self._control_ids.isdisjoint(ids) else self._join(text)

    def encode_trusted(self, text: str) -> TokenIds:
        """See :class:`cosalign.inference.engine.Tokenizer`."""
        return self._ids(_without_surrogates(text), split_special_tokens=False)

    def encode_chat(self, messages: Iterable[tuple[str, str]]) -> TokenIds:
        """See :class:`cosalign.inference.engine.Tokenizer`.

        Raises:
            ModelError: There is no chat template, or it cannot express these messages.
        """
        return self.encode_chats([tuple(messages)])[0]

    def encode_chats(self, conversations: Sequence[Sequence[tuple[str, str]]]) -> list[TokenIds]:
        """See :class:`cosalign.inference.engine.Tokenizer`.

        Raises:
            ModelError: There is no chat template, or it cannot express these messages.
        """
        parts = [self._template_and_contents(messages) for messages in conversations]
        together = self._batch_ids([_fill(template, contents) for template, contents in parts])
        return [
            whole
            if not self.seams_give_way
            and self._control_sequence(whole) == self._bare_controls(template)
            else self._encode_apart(template, contents)
            for whole, (template, contents) in zip(together, parts, strict=True)
        ]

    @property
    def document_start(self) -> TokenIds:
        """What the tokenizer puts before a text of its own accord: a token for its beginning."""
        return tuple(int(i) for i in self._tokenizer("").input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated tokens, without control tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _template_and_contents(self, messages: Sequence[tuple[str, str]]) -> tuple[str, list[str]]:
        pairs = [(role, _without_surrogates(content)) for role, content in messages]
        template = self._template(tuple(role for role, _ in pairs))
        return template, self._as_rendered(template, pairs)

    def _controls_of_template(self, template: str) -> list[int]:
        bare = self._ids(_MARKS.sub("", template), split_special_tokens=False)
        return self._control_sequence(bare)

    def _batch_ids(self, texts: list[str]) -> list[TokenIds]:
        """Tokens of trusted texts; what all begin with, a rubric say, is tokenised once."""
        if not texts:
            return []
        start = self._shared_start(texts)
        head = self._head(texts[0][:start], texts[0]) if start else ()
        if head is None:
            return self._encoded(texts)
        return [head + tail for tail in self._encoded([text[start:] for text in texts])]

    def _encoded(self, texts: list[str]) -> list[TokenIds]:
        """One call for all, which spares the wrapper's cost a text."""
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=False,
            return_attention_mask=False,
            verbose=False,
        )
        return [tuple(ids) for ids in cast("list[list[int]]", encoded["input_ids"])]

    def _shared_start(self, texts: Sequence[str]) -> int:
        """Where the last control token begins that all texts share with all that is before it."""
        first, last = min(texts), max(texts)
        # Texts and no paths; the first and the last in order share what all share.
        shared = commonprefix([first, last]) if len(texts) > 1 else ""  # noqa: RUF071
        return max((found.start() for found in self._controls.finditer(shared)), default=0)

    def _head(self, head: str, whole: str) -> TokenIds | None:
        if head not in self._heads:
            if len(self._heads) >= HEADS_KEPT:
                self._heads.clear()
            self._heads[head] = self._encode_head(head, whole)
        return self._heads[head]

    def _encode_head(self, head: str, whole: str) -> TokenIds | None:
        """Tokens of a text as far as a control token; ``None`` where they do not stand alone.

        Text is cut at control tokens before anything else is done to it, so that what stands before
        one is tokenised the same whatever follows. Normalisers could still see across the seam; the
        first text that has this head shows it, since the seam is the same in all.
        """
        if len(head) < SHORTEST_HEAD:
            return None
        first, rest, all_of_it = self._encoded([head, whole[len(head) :], whole])
        return first if first + rest == all_of_it else None

    def _ids(self, text: str, *, split_special_tokens: bool) -> TokenIds:
        if not text:
            return ()
        encoded = self._tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=split_special_tokens,
            return_attention_mask=False,
            verbose=False,
        )
        return tuple(cast("list[int]", encoded["input_ids"]))

    def _join(self, pieces: Iterable[str]) -> TokenIds:
        return tuple(id_ for piece in pieces for id_ in self._ids(piece, split_special_tokens=True))

    def _broken_up(self, text: str) -> Iterator[str]:
        position = 0
        while found := self._controls.search(text, position):
            cut = found.start() + 1
            yield text[position:cut]
            position = cut
        yield text[position:]

    def _control_sequence(self, ids: TokenIds) -> list[int]:
        return [id_ for id_ in ids if id_ in self._control_ids]

    def _render(self, messages: Sequence[tuple[str, str]]) -> str:
        if not self._tokenizer.chat_template:
            raise ModelError(
                f"model {self._folder} has no chat template; use an instruction-tuned model, or "
                "put a chat_template.jinja into its folder"
            )
        from jinja2 import TemplateError

        conversation = [{"role": role, "content": content} for role, content in messages]
        try:
            rendered = self._tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as problem:
            roles = [role for role, _ in messages]
            raise ModelError(
                f"the chat template of {self._folder} refuses messages of roles {roles}: {problem}"
            ) from problem
        return str(rendered)

    def _render_marks(self, roles: tuple[str, ...]) -> str:
        template = self._render([(role, _MARK.format(i)) for i, role in enumerate(roles)])
        found = [int(mark) for mark in _MARKS.findall(template)]
        if found != list(range(len(roles))):
            raise ModelError(
                f"the chat template of {self._folder} does not render each of the messages "
                f"{list(roles)} once and in order; use another template"
            )
        return template

    def _as_rendered(self, template: str, messages: Sequence[tuple[str, str]]) -> list[str]:
        """The contents as the template leaves them: many templates strip white space."""
        contents = [content for _, content in messages]
        stripped = [content.strip() for content in contents]
        if contents == stripped or _fill(template, contents) == self._render(messages):
            return contents
        return stripped

    def _encode_apart(self, template: str, contents: list[str]) -> TokenIds:
        ids: list[int] = []
        position = 0
        for control in self._controls.finditer(template):
            ids += self.encode_plain(_fill(template[position : control.start()], contents))
            ids += self.encode_trusted(control.group())
            position = control.end()
        return (*ids, *self.encode_plain(_fill(template[position:], contents)))


def load_tokenizer(model: ModelFolder) -> Tokenizer:
    """The tokenizer of a checked model, or the double's where the model is one.

    Raises:
        ModelError: The tokenizer's files cannot be read.
    """
    if model.tokenizer_digest == double_tokenizer_digest():
        return DoubleTokenizer()
    if model.tokenizer_digest == message_tokenizer_digest():
        return MessageTokenizer()
    return HfTokenizer(model.path, model.tokenizer_digest)


def document_start(tokenizer: Tokenizer) -> TokenIds:
    """What a model expects before a text that is no conversation; often nothing."""
    return tokenizer.document_start if isinstance(tokenizer, HfTokenizer) else ()


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as problem:
        reason = str(problem).partition("\n")[0]
        raise ModelError(
            f"the tokenizer in {folder} cannot be read: {reason}; fetch the model again"
        ) from problem


def _control_tokens(tokenizer: Any) -> dict[str, int]:
    """Special and added tokens by id, without runs of white space, which some vocabularies add."""
    added = {token.content: int(id_) for id_, token in tokenizer.added_tokens_decoder.items()}
    special = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return {text: id_ for text, id_ in (added | dict(special)).items() if text.strip()}


def _seams_give_way(tokenizer: Any) -> bool:
    """Whether a content can alter a control token that stands beside it.

    Where control tokens are looked for in normalised text, a combining mark at a content's start
    undoes the token before it, and the content may spell the same one further on: the sequence of
    control tokens is right, and one of them is the content's.
    """
    return tokenizer.backend_tokenizer.normalizer is not None and any(
        token.normalized for token in tokenizer.added_tokens_decoder.values()
    )


def _fill(template: str, contents: Sequence[str]) -> str:
    return _MARKS.sub(lambda mark: contents[int(mark.group(1))], template)


def _without_surrogates(text: str) -> str:
    """Lone surrogates, which no tokenizer takes, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
