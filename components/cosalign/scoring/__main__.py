"""Container entry of the scoring image."""

import sys

from cosalign.runtime.shared_step import shared_main
from cosalign.scoring.step import ScoringStep

if __name__ == "__main__":
    sys.exit(shared_main(ScoringStep()))
