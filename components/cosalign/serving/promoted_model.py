"""Which model answers: the one that the storage's ``current`` pointer names.

The pointer is read every few seconds. A newly named model's tokenizer is fetched and held against
the model's digest before anything is sent to it; the upstream that serves it is found by that
digest too (:mod:`cosalign.serving.upstreams`). Until one does, the model that was current before
goes on answering: it was promoted too. No other model ever does.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cosalign.domain.errors import CosalignError, ModelError
from cosalign.inference.models import ModelFolder, resolve_model, split_pin
from cosalign.inference.served_model import is_served, parse_served
from cosalign.runtime.logs import get_logger
from cosalign.serving.prompts import MessagePrompts, PromptForm, TokenPrompts
from cosalign.serving.settings import GatewaySettings
from cosalign.store.model_pointer import Entry, ModelPointer
from cosalign.store.storage import open_storage

if TYPE_CHECKING:
    from typing import Literal

    PromptKind = Literal["tokens", "template", "system"]

_log = get_logger(__name__)


@dataclass(frozen=True)
class AnsweringModel:
    """A model that may answer.

    Attributes:
        digest: Its identity.
        uri: Where it lies.
        served_name: What upstreams list it under.
        prompts: How it is asked.
    """

    digest: str
    uri: str
    served_name: str
    prompts: PromptForm


class ModelFollower:
    """Follows the pointer; or stays with one model, where the settings name it.

    Args:
        settings: The gateway's.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._group = settings.model
        self._kind: PromptKind = settings.upstreams.prompt
        self._cache = Path(settings.cache).expanduser()
        self._pointer = ModelPointer(open_storage(settings.storage), settings.model.pointer)
        self._entry: Entry | None = None
        self._fixed: AnsweringModel | None = None
        self._loaded: dict[str, AnsweringModel] = {}
        self.candidates: tuple[AnsweringModel, ...] = ()

    async def refresh(self) -> None:
        """Looks at the pointer; whatever fails leaves the models in use as they are."""
        try:
            await asyncio.to_thread(self._refresh)
        except (CosalignError, OSError) as problem:
            _log.error("model not followed", reason=str(problem))

    def _refresh(self) -> None:
        if self._group.uri is not None:
            if self._fixed is None:
                self._fixed = fixed_model(
                    self._group.uri, self._group.served_name, self._kind, self._cache
                )
                self.candidates = (self._fixed,)
            return
        entry = self._pointer.checked()
        if entry is None or entry == self._entry:
            return
        current = self._model(entry)
        self.candidates = (current, *self._before(entry))
        self._loaded = {model.digest: model for model in self.candidates}
        self._entry = entry
        _log.info("model followed", digest=entry.digest, entry=entry.number, action=entry.action)

    def _before(self, entry: Entry) -> list[AnsweringModel]:
        """The model that was current before, where it is another one and can be had."""
        earlier = [one for one in self._pointer.history() if one.number < entry.number]
        if not earlier or earlier[-1].digest == entry.digest:
            return []
        try:
            return [self._model(earlier[-1])]
        except CosalignError as problem:
            _log.warning("model before not loaded", reason=str(problem))
            return []

    def _model(self, entry: Entry) -> AnsweringModel:
        known = self._loaded.get(entry.digest)
        return known or pinned_model(entry.uri, entry.digest, self._kind, self._cache)


def pinned_model(uri: str, digest: str, kind: PromptKind, cache: Path) -> AnsweringModel:
    """A model by address and digest.

    Raises:
        ModelError: What lies there is another model.
        TransientError: The storage did not answer.
    """
    from cosalign.inference.model_manifest import released_tokenizer

    address = split_pin(uri)[0]
    folder = released_tokenizer(address, digest, cache)
    if folder is None:
        # No manifest says what the files should be, so all of them are looked at.
        folder = resolve_model(f"{address}@sha256:{digest}", cache)
    return AnsweringModel(digest, uri, digest, prompt_form(folder, kind))


def fixed_model(uri: str, served_name: str | None, kind: PromptKind, cache: Path) -> AnsweringModel:
    """A model that the operator names, whatever was promoted.

    Raises:
        ModelError: There is none, or it cannot be asked in this way.
    """
    folder = resolve_model(uri, cache)
    name = served_name or (parse_served(uri).name if is_served(uri) else folder.digest)
    return AnsweringModel(folder.digest, uri, name, prompt_form(folder, kind))


def prompt_form(folder: ModelFolder, kind: PromptKind) -> PromptForm:
    """How a model whose tokenizer is known is asked.

    Raises:
        ModelError: It cannot be asked in this way.
    """
    counted = TokenPrompts(folder.path, folder.tokenizer_digest)
    if kind == "tokens":
        return counted
    if counted.tokenizer.seams_give_way:
        raise ModelError(
            f"model {folder.uri}: its vocabulary finds control tokens in normalised text, so "
            "messages cannot be checked for them; set upstreams.prompt to tokens"
        )
    return MessagePrompts(counted, argument=kind == "template")
