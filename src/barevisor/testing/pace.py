"""How long tests wait for guests: in lockstep each takes some twenty times as long."""

from __future__ import annotations

import os

LOCKSTEP = os.environ.get("BAREVISOR_BT") == "lockstep"
"""Whether the tests were started so; a test may choose the mode of its own VMs."""
SLOWER = 20 if LOCKSTEP else 1
