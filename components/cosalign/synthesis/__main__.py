"""Container entry of the synthesis image."""

import sys

from cosalign.runtime.step import main
from cosalign.synthesis.step import SynthesisStep

if __name__ == "__main__":
    sys.exit(main(SynthesisStep()))
