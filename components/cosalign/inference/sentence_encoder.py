"""Sentence embeddings from a small encoder, with transformers alone.

Mean pooling and unit length, as the all-MiniLM family was trained; a library around that would
bring a second way of loading models. In float32 on the CPU: thousands of short texts cost seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cosalign.domain.errors import ModelError

FloatArray = npt.NDArray[np.float32]
MAX_TOKENS = 256
"""Longer texts are cut: the encoders were trained on at most this much."""
BATCH = 32


class Encoder(Protocol):
    """Turns texts into vectors."""

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Vectors of length 1, shape (texts, dimensions)."""
        ...


class SentenceEncoder:
    """An encoder model in memory.

    Raises:
        ModelError: Its files cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), **options)
            model = AutoModel.from_pretrained(
                str(folder), use_safetensors=True, dtype=torch.float32, **options
            )
        except (OSError, ValueError, KeyError) as problem:
            reason = str(problem).partition("\n")[0]
            raise ModelError(f"the sentence encoder in {folder} cannot be read: {reason}") from None
        self._model: Any = model.eval()

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Vectors of length 1, shape (texts, dimensions).

        The last bits of a vector depend on what else is encoded in the same call.
        """
        # Texts of one length side by side, so that little of a batch is padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        parts = [self._batch([texts[i] for i in batch]) for batch in batches]
        return np.concatenate(parts)[np.argsort(order)]

    def _batch(self, texts: Sequence[str]) -> FloatArray:
        import torch

        encoded = self._tokenizer(
            [text.encode("utf-8", "replace").decode() for text in texts],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden = self._model(**encoded).last_hidden_state
            mask = encoded["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            unit = torch.nn.functional.normalize(mean, dim=1)
        return np.asarray(unit.numpy(), np.float32)
