"""`python -m mtf_switch.demo`, which is `make demo`."""

import sys

from mtf_switch.demo.pretraining import main

sys.exit(main())
