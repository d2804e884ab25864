"""Container entry of the evaluation image; ``model`` evaluates a model from elsewhere."""

import sys

from cosalign.evaluation.model_evaluation import ModelEvaluationStep
from cosalign.evaluation.step import EvaluationStep
from cosalign.runtime.shared_step import shared_main

if __name__ == "__main__":
    if sys.argv[1:2] == ["model"]:
        sys.exit(shared_main(ModelEvaluationStep(), sys.argv[2:]))
    sys.exit(shared_main(EvaluationStep()))
