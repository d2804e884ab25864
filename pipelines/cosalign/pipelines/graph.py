"""The KFP graph: five fat steps that hand small manifests to each other.

Every KFP task costs two pods and a copy of its artifacts, so the graph has one task a stage, and
tables and weights stay in storage. All settings are in one run config: the graph takes its address
and its digest, and the digest makes KFP's cache notice a changed setting.
"""

from kfp import dsl

from cosalign.evaluation.component import evaluation
from cosalign.pairing.component import pairing
from cosalign.scoring.component import scoring
from cosalign.synthesis.component import synthesis
from cosalign.training.component import training

RETRIES = 3


def _hardened(task: dsl.PipelineTask, *, cache: bool) -> dsl.PipelineTask:
    """Retries with backoff for what is transient; steps resume from their ledgers."""
    task.set_retry(RETRIES, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="600s")
    return task.set_caching_options(enable_caching=cache)


@dsl.pipeline(  # type: ignore[untyped-decorator]  # kfp ships no types
    name="cosalign", description="From prompts and safety configs to a measured model."
)
def cosalign(run_config_uri: str, run_config_digest: str) -> None:
    """Synthesis, scoring, pairing, training, evaluation.

    Args:
        run_config_uri: Address of the resolved run config, ``file://`` or ``gs://``.
        run_config_digest: Its digest; a step refuses a config with another one.
    """
    run = {"run_config_uri": run_config_uri, "run_config_digest": run_config_digest}
    # KFP's cache key sees addresses, not what lies behind them. The two steps that read files of
    # the user's (prompts, configs, benchmarks) run each time and find out what is new themselves.
    made = _hardened(synthesis(**run), cache=False).outputs["synthesis"]
    scored = _hardened(scoring(**run, synthesis=made), cache=True).outputs["scoring"]
    paired = _hardened(pairing(**run, synthesis=made, scoring=scored), cache=True)
    trained = _hardened(
        training(**run, synthesis=made, pairing=paired.outputs["pairing"]), cache=True
    )
    _hardened(evaluation(**run, synthesis=made, training=trained.outputs["training"]), cache=False)
