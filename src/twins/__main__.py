"""`python -m twins`, for `torchrun -m twins`."""

import sys

from twins.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
