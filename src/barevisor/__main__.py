"""`python -m barevisor`: the command `bare`."""

import sys

from barevisor.cli.main import main

sys.exit(main())
