"""One place that decides which engine runs, so that no step names vLLM."""

from __future__ import annotations

from cosalign.domain.errors import ConfigError
from cosalign.domain.run_config import EngineGroup
from cosalign.inference.double import DoubleEngine
from cosalign.inference.engine import Engine
from cosalign.inference.hf_tokenizer import load_tokenizer
from cosalign.inference.models import ModelFolder


def open_engine(model: ModelFolder, settings: EngineGroup) -> Engine:
    """Starts the engine that the settings name; close it, or use it as a context manager.

    With ``kind: double`` any model may be named: its weights are not read, while its digest and,
    where it is a real folder, its tokenizer are its own.

    Raises:
        ConfigError: ``kind: vllm`` with a model that is none (``double:NAME``), or a context
            length that the model does not have.
        EngineUnavailable: vLLM did not start.
    """
    if settings.kind == "double":
        return DoubleEngine(model.digest, settings.max_model_len, load_tokenizer(model))
    if model.is_double:
        raise ConfigError(
            f"models.engine.kind is 'vllm', and {model.uri} is no real model; "
            "set models.engine.kind to 'double', or name a model"
        )
    from cosalign.inference.vllm_engine import VllmEngine

    return VllmEngine(model, settings)
