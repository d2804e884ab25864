"""A launcher that runs a task's own entry in this process."""

from __future__ import annotations

from collections.abc import Callable

from cosalign.pipelines.launchers import Launch


class InProcess:
    """Runs a task's own entry in this process: the same code, without an interpreter a task."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def launch(self, launch: Launch) -> int:
        self.tasks.append(launch.task)
        module, words = launch.command[2], list(launch.command[3:])
        return _entry(module, words)

    def pause(self, seconds: float) -> None:  # noqa: ARG002
        raise AssertionError("nothing is retried here")


def _entry(module: str, words: list[str]) -> int:
    from cosalign.evaluation.model_evaluation import ModelEvaluationStep
    from cosalign.evaluation.step import EvaluationStep
    from cosalign.pairing.step import PairingStep
    from cosalign.runtime.run_end import main as run_end
    from cosalign.runtime.shared_step import prepared_main, shared_main
    from cosalign.runtime.step import main
    from cosalign.scoring.step import ScoringStep
    from cosalign.synthesis.prompts_step import PromptsStep
    from cosalign.synthesis.step import SynthesisStep
    from cosalign.training.step import TrainingStep

    entries: dict[str, Callable[[list[str]], int]] = {
        "cosalign.runtime.run_end": run_end,
        "cosalign.synthesis": lambda argv: prepared_main(SynthesisStep(), argv),
        "cosalign.scoring": lambda argv: shared_main(ScoringStep(), argv),
        "cosalign.pairing": lambda argv: main(PairingStep(), argv),
        "cosalign.training": lambda argv: main(TrainingStep(), argv),
        "cosalign.evaluation": lambda argv: shared_main(EvaluationStep(), argv),
        "prompts": lambda argv: main(PromptsStep(), argv),
        "model": lambda argv: shared_main(ModelEvaluationStep(), argv),
    }
    if words[0] in entries:
        return entries[words[0]](words[1:])
    return entries[module](words)
