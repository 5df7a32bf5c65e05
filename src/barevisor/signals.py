"""`signal` for what each start imports: `_signal`, the C module beneath the standard library's.

It has the numbers and functions under the same names; what is missing are enums of them all, which
with the import of `enum` are a twelfth of what a start does in Python (ADR 14). So numbers and the
handlers SIG_DFL and SIG_IGN come back as ints. Type checkers see `signal`.
"""

from __future__ import annotations

from barevisor.records import TYPE_CHECKING

__all__ = ["signal"]

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal
