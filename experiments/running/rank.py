"""`python -m experiments.running.rank REQUEST ANSWER`: one rank of a stage on several devices (see training).

It ends with the process that began the run, also while it still imports what it needs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from experiments.running.processes import end_with_parent, leave_requeueing_to_the_parent

if __name__ == "__main__":
    end_with_parent(int(os.environ["REPRISE_PARENT"]))
    leave_requeueing_to_the_parent()

    from experiments.running import training

    training.run_rank(Path(sys.argv[1]), Path(sys.argv[2]))
