"""Sizes of a Llama-like decoder, from its ``config.json``: all that a plan has to know of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosalign.domain.errors import ModelError

_NEEDED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)


@dataclass(frozen=True)
class ModelShape:
    """A decoder's sizes.

    Attributes:
        hidden: Width of the residual stream.
        intermediate: Width of the gated MLP.
        layers: Blocks.
        query: Width of all queries together.
        key_value: Width of all keys together; of all values too.
        vocabulary: Tokens.
        tied: Whether the output layer is the embedding.
    """

    hidden: int
    intermediate: int
    layers: int
    query: int
    key_value: int
    vocabulary: int
    tied: bool

    @property
    def block_parameters(self) -> int:
        """Weights of one block: four attention projections, three of the MLP, two norms."""
        attention = 2 * self.hidden * (self.query + self.key_value)
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding, and of the output layer if it is its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.layers * self.block_parameters + self.embedding_parameters + self.hidden

    def forward_flops(self, tokens: float, scored: float, length: float) -> float:
        """Floating point operations of one forward pass.

        Two a weight and token (Kaplan et al., arXiv 2001.08361, section 2.1), the output layer for
        scored tokens alone, and ``4 * query * length / 2`` a token and block for causal attention
        (Chowdhery et al., arXiv 2204.02311, appendix B).

        Args:
            tokens: Tokens computed on.
            scored: Tokens that reach the output layer.
            length: Mean length of the sequences that tokens attend in.
        """
        weights = 2.0 * self.layers * self.block_parameters * tokens
        head = 2.0 * self.vocabulary * self.hidden * scored
        attention = 2.0 * self.layers * self.query * length * tokens
        return weights + head + attention

    def adapter_parameters(self, rank: int) -> int:
        """Weights of low-rank adapters on all linear layers of the blocks.

        Args:
            rank: Width of an adapter.
        """
        attention = 4 * self.hidden + 2 * self.query + 2 * self.key_value
        return self.layers * rank * (attention + 3 * (self.hidden + self.intermediate))

    def activation_bytes(self, half: bool) -> int:
        """Bytes that a block keeps for its backward pass, a token; its mask is not among them.

        In fp32 both norms' inputs and normalised inputs. In the type of computation what the linear
        layers multiply (in bf16 each casts its own input), queries, keys and values (these repeated
        to all heads), and the MLP's gate, its activation, its other half and their product. After
        Korthikanti et al. (arXiv 2205.05198, section 4.1).

        Args:
            half: Whether computation is in bf16; all is in fp32 where not.
        """
        norms, size, inputs = 16 * self.hidden, 2 if half else 4, 5 if half else 2
        return norms + size * (inputs * self.hidden + 4 * self.query + 4 * self.intermediate)


def read_model_shape(folder: Path) -> ModelShape:
    """The shape of a model folder.

    Raises:
        ModelError: Its ``config.json`` lacks a size.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    lacking = [name for name in _NEEDED if not isinstance(config.get(name), int)]
    if lacking:
        raise ModelError(
            f"{folder}/config.json gives no {', '.join(lacking)}; plans are made for Llama-like "
            "decoders, which name them all"
        )
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    return ModelShape(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        query=heads * width,
        key_value=(config.get("num_key_value_heads") or heads) * width,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings")),
    )
