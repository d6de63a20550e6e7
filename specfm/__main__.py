"""``python -m specfm``: the same command line as ``specfm``."""

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # As `specfm` does: nothing is imported from the current folder, where a user's own file may be called pretrain.py,
    # unless it is the checkout that specfm itself comes from.
    _root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd()) != os.path.realpath(_root):
        del sys.path[0]

from specfm.cli import main

main()
