"""``python -m uamix_bench``."""

import sys

from uamix_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
