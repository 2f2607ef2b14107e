"""``python -m bncli``."""

import os
import sys

# Python searches the current directory first, where a file named jax.py would run in place of JAX. Search it last.
if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):  # noqa: PTH109 - a string, as in sys.path
    sys.path.append(sys.path.pop(0))

from bncli.cli.app import main

if __name__ == "__main__":
    main()
