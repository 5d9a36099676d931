"""`python -m cruijff_kit` is the plain Hydra application, without the checks of `cruijff-kit run`."""

import sys

from cruijff_kit.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
