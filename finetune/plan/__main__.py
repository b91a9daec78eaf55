"""`python -m finetune.plan`: see `cli`."""

import sys

from finetune.errors import run_main
from finetune.plan.cli import main

if __name__ == "__main__":
    sys.exit(run_main(main))
