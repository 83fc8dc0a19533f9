"""Process of torchrun that kills itself at times: `elastic_kills.py SEED KILLS OPTIONS...`.

It trains, but in each of the first attempts, as many as there are to be kills, one of the processes
kills itself at a message drawn from the seed. Which one and when is said on stderr.
"""

from __future__ import annotations

import os
import random
import sys

import numpy as np
from rank_kills import Strike, wrap

from ekpnet_fast import train

MESSAGES = 40  # the first so many of an attempt


def main(seed: int, kills: int, options: list[str]) -> None:
    """Train."""
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if attempt < kills:
        draw = random.Random(f"{seed} {attempt}")
        rank = draw.randrange(int(os.environ["WORLD_SIZE"]))
        at = draw.randint(1, MESSAGES)
        if rank == int(os.environ["RANK"]):
            print(f"attempt {attempt} ends at message {at}", file=sys.stderr, flush=True)
            wrap("message", np.zeros(1, np.int64), Strike(rank, "message", at, "killed"))
    sys.exit(train.main(options))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), sys.argv[3:])
