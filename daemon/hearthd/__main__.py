"""`python -m hearthd` is `hearth serve`."""

from __future__ import annotations

import sys

from hearthd.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
