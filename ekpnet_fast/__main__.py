"""Entry point of `python -m ekpnet_fast COMMAND ...`."""

import sys

from ekpnet_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
