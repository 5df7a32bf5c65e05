"""Python's own tests in the guest and on the host: every test must end alike.

    python bench/same_bytes.py [--json] [MODULE...]        (default: all eight of issue 2)

The exit code is 1 when a test ended differently. Times are of one run each. test_threading
depends on time and may differ on a loaded machine: what differed is named.
"""

from __future__ import annotations

import sys

from _common import Report, Row, options, progress

from barevisor import Vm
from barevisor.testing import samebytes


def main() -> int:
    parser = options(str(__doc__), rounds=1)
    parser.add_argument("module", nargs="*", default=list(samebytes.MODULES))
    arguments = parser.parse_args()
    if reason := samebytes.missing():
        raise SystemExit(reason)
    report = Report("Python's own tests inside a guest, beside the host")
    with Vm(engine=arguments.engine) as vm:
        for module in arguments.module:
            outer, inner = samebytes.outside(module), samebytes.inside(vm, module)
            wrong = samebytes.differences(outer, inner)
            progress(f"  {module}: {len(outer.tests)} tests, {len(wrong)} differ")
            passed = sum(outcome == "ok" for outcome in inner.tests.values())
            bar = f"{len(outer.tests)} tests alike, {passed} pass"
            report.rows.append(
                Row(module, inner.seconds, "s", native=outer.seconds, bar=bar, met=not wrong)
            )
            report.notes += wrong
            if wrong:
                progress(inner.errors[-3000:])
    return report.show(arguments)


if __name__ == "__main__":
    sys.exit(main())
