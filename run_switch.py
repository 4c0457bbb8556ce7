"""The command line of mtf_switch; see `python run_switch.py --help`."""

import sys

from mtf_switch.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
