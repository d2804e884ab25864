"""Container entry of training: ``python -m cosalign.training``."""

import sys

from cosalign.runtime.step import main
from cosalign.training.step import TrainingStep

if __name__ == "__main__":
    sys.exit(main(TrainingStep()))
