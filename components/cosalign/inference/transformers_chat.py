"""Single answers from a model in this process, for people who wait at a terminal.

An inference engine takes half a minute to start and pays off over thousands of requests; a person
asks one thing at a time. So transformers generates here, from the same token ids that engine and
training use. The trade: another implementation, whose greedy answers may part from the engine's
where two tokens are about equally likely.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cosalign.domain.errors import ModelError
from cosalign.inference.hf_tokenizer import load_tokenizer
from cosalign.inference.models import ModelFolder


class ChatModel:
    """A model in memory that answers greedily.

    Args:
        model: The checked model.
        dtype: Type of the weights, as ``models.engine.dtype`` names it.

    Raises:
        ModelError: It stands for no real model, or its files cannot be read.
    """

    def __init__(self, model: ModelFolder, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        if model.is_double:
            raise ModelError(f"{model.uri} is no real model, so nobody can talk with it")
        logging.disable_progress_bar()
        self._ids = load_tokenizer(model)
        options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(model.path), **options)
            weights = AutoModelForCausalLM.from_pretrained(
                str(model.path), use_safetensors=True, dtype=dtype, **options
            )
        except (OSError, ValueError, KeyError) as problem:
            reason = str(problem).partition("\n")[0]
            raise ModelError(f"model {model.uri} cannot be read: {reason}") from None
        self._model: Any = weights.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def answer(self, messages: Iterable[tuple[str, str]], max_tokens: int) -> str:
        """The greedy answer to (role, content) messages, at most ``max_tokens`` long."""
        import torch

        ids = torch.tensor([self._ids.encode_chat(messages)], device=self._model.device)
        with torch.inference_mode():
            whole = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                pad_token_id=self._tokenizer.eos_token_id,
            )
        return str(self._tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True))
