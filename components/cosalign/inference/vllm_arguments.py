"""What vLLM is told: an engine's arguments, and a request's sampling parameters.

Labels: one token a question, ``allowed_token_ids`` keeps the answers on the menu, and
``logprob_token_ids`` reads the exact log-probabilities from before that mask. A constrained string
would cost the same and give one probability where all are wanted.
"""

from __future__ import annotations

import json
from typing import Any

from cosalign.domain.errors import ConfigError
from cosalign.domain.run_config import EngineGroup
from cosalign.inference.engine import GenerationRequest, LabelRequest, ScoreRequest
from cosalign.inference.models import ModelFolder

CPU_BATCHED_TOKENS = 4096
"""Tokens of one engine step on a CPU; more only delays the first results."""
CPU_BLOCK_TOKENS = 32
"""Tokens of a cache block on a CPU, the fewest its kernels take. Only whole blocks are shared: with
vLLM's own 128 a judgement computed up to 127 tokens of its rubric anew, more than its evidence."""


def check_context(model: ModelFolder, settings: EngineGroup) -> None:
    """Refuses a context length that the model does not have.

    Raises:
        ConfigError: It has less.
    """
    config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
    longest = config.get("max_position_embeddings")
    if isinstance(longest, int) and settings.max_model_len > longest:
        raise ConfigError(
            f"models.engine.max_model_len is {settings.max_model_len}, and {model.uri} takes "
            f"{longest} tokens at the most; set it to {longest} or less"
        )


def engine_arguments(model: ModelFolder, settings: EngineGroup, *, on_cpu: bool) -> dict[str, Any]:
    """What vLLM is told, as arguments of its ``EngineArgs``."""
    arguments: dict[str, Any] = {
        "model": str(model.path),
        "load_format": "safetensors",
        "trust_remote_code": False,
        "dtype": settings.dtype,
        "seed": settings.seed,
        "max_model_len": settings.max_model_len,
        "tensor_parallel_size": settings.tensor_parallel,
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
        # Compiling for a CPU takes longer than a run of this size.
        "enforce_eager": on_cpu,
    }
    if on_cpu:
        # A prompt prefilled in pieces rewinds its seeded generator; torch's CPU one cannot do that.
        arguments["enable_chunked_prefill"] = False
        arguments["block_size"] = CPU_BLOCK_TOKENS
        arguments["max_num_batched_tokens"] = max(settings.max_model_len, CPU_BATCHED_TOKENS)
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    return arguments


def generation_sampling(request: GenerationRequest) -> Any:
    """VLLM's sampling parameters for a generation request."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    drawn = request.sampling.temperature > 0
    return SamplingParams(
        max_tokens=request.sampling.max_tokens,
        temperature=request.sampling.temperature,
        top_p=request.sampling.top_p,
        # A seeded row gets a generator of its own, which costs; vLLM takes 63 bits.
        seed=request.seed % 2**63 if drawn else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def label_sampling(request: LabelRequest) -> Any:
    """VLLM's sampling parameters for a label request."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    menu = sorted({token for alphabet in request.alphabets for token in alphabet})
    return SamplingParams(
        max_tokens=len(request.alphabets),
        min_tokens=len(request.alphabets),
        ignore_eos=True,
        temperature=0.0,
        allowed_token_ids=menu,
        logprob_token_ids=menu,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def score_sampling(_: ScoreRequest) -> Any:
    """VLLM's sampling parameters for a score request: one token is written, and let fall."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        # Of each position its own token, with its rank, and the likeliest.
        prompt_logprobs=1,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
