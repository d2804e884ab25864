"""Container entry of the evaluation image."""

import sys

from cosalign.evaluation.step import EvaluationStep
from cosalign.runtime.step import main

if __name__ == "__main__":
    sys.exit(main(EvaluationStep()))
