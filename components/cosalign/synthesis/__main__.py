"""Container entry of the synthesis image; ``prompts`` for the prompts step, see shared_step too."""

import sys

from cosalign.runtime.shared_step import prepared_main
from cosalign.runtime.step import main
from cosalign.synthesis.prompts_step import PromptsStep
from cosalign.synthesis.step import SynthesisStep

if __name__ == "__main__":
    if sys.argv[1:2] == ["prompts"]:
        sys.exit(main(PromptsStep(), sys.argv[2:]))
    sys.exit(prepared_main(SynthesisStep()))
