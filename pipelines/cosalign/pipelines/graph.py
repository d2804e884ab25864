"""The KFP graphs: fat steps that hand small manifests to each other.

Every KFP task costs two pods and a copy of its artifacts, so the graphs have one task a stage, and
tables and weights stay in storage. All settings are in one run config: a graph takes its address
and its digest, so that no step runs under another setting than its run.

What is paid for by the token (candidates, verdicts, answers) is spread over ``shards`` pods: each
pays for a share of the prompts into the ledgers, and the step after them assembles tables from
there. It gets the fingerprints that the shares paid for, and refuses any but its own. ``shards=0``
spreads nothing: each step pays for itself, which is what one machine wants.
"""

# A pipeline's parameters are its interface.
# ruff: noqa: PLR0913

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from kfp import dsl

from cosalign.evaluation.component import answers, evaluation, model_answers, model_evaluation
from cosalign.pairing.component import pairing
from cosalign.pipelines.images import image_reference
from cosalign.pipelines.placement import Pool, at_the_end, placed
from cosalign.runtime.component import run_end
from cosalign.scoring.component import judging, scoring
from cosalign.synthesis.component import generation, prepare, prompts, synthesis
from cosalign.training.component import training

GPU = "nvidia.com/gpu"
SECRET = "cosalign"  # noqa: S105  the name of a secret, not one


@dataclass(frozen=True)
class _Place:
    """Where tasks run, in which image, and whether KFP may reuse their results.

    KFP's cache key sees addresses, not what lies behind them. Tasks that read files of the user's
    (prompts, configs, benchmarks) run each time and find out by themselves what is new. Others may
    be cached: all that they read is named by digest. A repeated run starts them all the same, since
    it makes new artifacts on the way to them; by their fingerprints they end at once.
    """

    image: Any
    secret: Any
    pool: Pool
    cache: bool

    def __call__(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        there = placed(task, self.image, self.secret, self.pool)
        return there.set_caching_options(enable_caching=self.cache)


def _spread(name: str, shares: Any, place: _Place, paying: Callable[..., Any]) -> dsl.Collected:
    """One task a share; gives the fingerprints that they paid for."""
    with dsl.ParallelFor(shares, name=name) as share:
        part = place(paying(share=share))
    return dsl.Collected(part.outputs["identity"])


def _method(step: dict[str, Any], shards: Any, at: dict[str, _Place]) -> None:
    """The method's stages, each in its place."""
    ready = at["generate"](prepare(**step, shards=shards))
    shares = ready.outputs["shares"]
    paid = _spread("generate", shares, at["generate"], partial(generation, **step))
    made = at["synthesise"](synthesis(**step, identities=paid))
    tables = {"synthesis": made.outputs["synthesis"]}
    paid = _spread("judge", shares, at["judge"], partial(judging, **step, **tables))
    scored = at["judge"](scoring(**step, **tables, identities=paid))
    paired = at["pair"](pairing(**step, **tables, scoring=scored.outputs["scoring"]))
    trained = at["train"](training(**step, **tables, pairing=paired.outputs["pairing"]))
    models = {**tables, "training": trained.outputs["training"]}
    paid = _spread("answer", shares, at["measure"], partial(answers, **step, **models))
    at["measure"](evaluation(**step, **models, identities=paid))


@dsl.pipeline(  # type: ignore[untyped-decorator]  # kfp ships no types
    name="cosalign", description="From prompts and safety configs to a measured model."
)
def cosalign(
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str = "",
    shards: int = 1,
    synthesis_image: str = image_reference("cosalign-synthesis"),
    scoring_image: str = image_reference("cosalign-scoring"),
    pairing_image: str = image_reference("cosalign-pairing"),
    training_image: str = image_reference("cosalign-training"),
    evaluation_image: str = image_reference("cosalign-evaluation"),
    accelerator_type: str = GPU,
    accelerator_count: str = "1",
    training_accelerator_count: str = "1",
    node_selector: dict = {},  # type: ignore[type-arg]  # noqa: B006
    tolerations: list = [],  # type: ignore[type-arg]  # noqa: B006
    training_node_selector: dict = {},  # type: ignore[type-arg]  # noqa: B006
    training_tolerations: list = [],  # type: ignore[type-arg]  # noqa: B006
    cpu_node_selector: dict = {},  # type: ignore[type-arg]  # noqa: B006
    cpu_tolerations: list = [],  # type: ignore[type-arg]  # noqa: B006
    secret: str = SECRET,
) -> None:
    """Synthesis, scoring, pairing, training, evaluation.

    Args:
        run_config_uri: Address of the resolved run config, ``file://`` or ``gs://``.
        run_config_digest: Its SHA-256; a step refuses a config with another one.
        base_model_uri: The model to train, in place of the run config's.
        shards: Over how many pods generation, judging and answering are each spread.
        synthesis_image: Image of synthesis, by digest.
        scoring_image: Image of scoring, by digest.
        pairing_image: Image of pairing and of the run's end, by digest.
        training_image: Image of training, by digest.
        evaluation_image: Image of evaluation, by digest.
        accelerator_type: Resource name of the GPUs.
        accelerator_count: GPUs of a pod that generates or judges; each holds a copy of the model.
        training_accelerator_count: GPUs of the training pod.
        node_selector: Labels of the GPU nodes.
        tolerations: Of the GPU nodes' taints.
        training_node_selector: Labels of the training pod's nodes, in place of node_selector.
        training_tolerations: Of those nodes' taints, beside tolerations.
        cpu_node_selector: Labels of the nodes for tasks without a GPU.
        cpu_tolerations: Of those nodes' taints.
        secret: Name of the secret that may hold ``hub-token`` and ``judge-api-key``.
    """
    run = {"run_config_uri": run_config_uri, "run_config_digest": run_config_digest}
    step = {**run, "base_model_uri": base_model_uri}
    gpu = Pool(node_selector, (tolerations,), accelerator_type, accelerator_count)
    both = (tolerations, training_tolerations)
    many = Pool(training_node_selector, both, accelerator_type, training_accelerator_count)
    cpu = Pool(cpu_node_selector, (cpu_tolerations,))
    at = {
        "generate": _Place(synthesis_image, secret, gpu, cache=False),
        "synthesise": _Place(synthesis_image, secret, cpu, cache=False),
        "judge": _Place(scoring_image, secret, gpu, cache=True),
        "pair": _Place(pairing_image, secret, cpu, cache=True),
        "train": _Place(training_image, secret, many, cache=True),
        "measure": _Place(evaluation_image, secret, gpu, cache=False),
    }
    with dsl.ExitHandler(at_the_end(run_end(**run), pairing_image), name="method"):
        _method(step, shards, at)


@dsl.pipeline(  # type: ignore[untyped-decorator]  # kfp ships no types
    name="evaluate", description="Any model under all regions' safety configs, measured."
)
def evaluate(
    run_config_uri: str,
    run_config_digest: str,
    model_uri: str,
    base_model_uri: str = "",
    shards: int = 1,
    synthesis_image: str = image_reference("cosalign-synthesis"),
    pairing_image: str = image_reference("cosalign-pairing"),
    evaluation_image: str = image_reference("cosalign-evaluation"),
    accelerator_type: str = GPU,
    accelerator_count: str = "1",
    node_selector: dict = {},  # type: ignore[type-arg]  # noqa: B006
    tolerations: list = [],  # type: ignore[type-arg]  # noqa: B006
    secret: str = SECRET,
) -> None:
    """Prompts, answers, evaluation.

    Args:
        run_config_uri: Address of the resolved run config, ``file://`` or ``gs://``.
        run_config_digest: Its SHA-256; a step refuses a config with another one.
        model_uri: The model to measure: a folder of safetensors on ``gs://``, or a hub id.
        base_model_uri: The model to compare with, in place of the run config's base model.
        shards: Over how many pods answering is spread.
        synthesis_image: Image of synthesis, by digest.
        pairing_image: Image of the run's end, by digest.
        evaluation_image: Image of evaluation, by digest.
        accelerator_type: Resource name of the GPUs.
        accelerator_count: GPUs of a pod; each holds a copy of the model.
        node_selector: Labels of the GPU nodes.
        tolerations: Of the GPU nodes' taints.
        secret: Name of the secret that may hold ``hub-token`` and ``judge-api-key``.
    """
    run = {"run_config_uri": run_config_uri, "run_config_digest": run_config_digest}
    step = {**run, "base_model_uri": base_model_uri}
    gpu = Pool(node_selector, (tolerations,), accelerator_type, accelerator_count)
    with dsl.ExitHandler(at_the_end(run_end(**run), pairing_image), name="method"):
        ready = _Place(synthesis_image, secret, gpu, cache=False)(prompts(**step, shards=shards))
        asked = {**step, "model_uri": model_uri, "synthesis": ready.outputs["prompts"]}
        place = _Place(evaluation_image, secret, gpu, cache=False)
        paid = _spread("answer", ready.outputs["shares"], place, partial(model_answers, **asked))
        place(model_evaluation(**asked, identities=paid))
