"""``python -m specfm``: the same command line as ``specfm``."""

from specfm.cli import main

main()
