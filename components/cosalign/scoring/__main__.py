"""Container entry of the scoring image."""

import sys

from cosalign.runtime.step import main
from cosalign.scoring.step import ScoringStep

if __name__ == "__main__":
    sys.exit(main(ScoringStep()))
