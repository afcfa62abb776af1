#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""One header in place of many: amalgamate.py OUT [HEADER ...]

Writes OUT with the given headers of kvfit and all of kvfit's that they include, in an order in which each stands
behind what it needs. By default these are one head's: compaction, presets, attention, layouts of engines. What the
file includes besides is the standard library, Eigen and xsimd. It is header-only kvfit; kvfit::compiled keeps its
own headers.
"""

import pathlib
import re
import sys

include = pathlib.Path(__file__).resolve().parent.parent / "include"
defaults = ["kvfit/compact.hpp", "kvfit/compact/memory_plan.hpp", "kvfit/presets.hpp", "kvfit/attention/attend.hpp",
            "kvfit/view/layouts.hpp", "kvfit/view/store.hpp", "kvfit/parallel/thread_pool.hpp"]  # fmt: skip

OWN = re.compile(r'#\s*include "(kvfit/[^"]+)"')
COMPILED = re.compile(r"#\s*if(?:def KVFIT_COMPILED\b| defined\(KVFIT_COMPILED\)\s*(?://.*)?$)")
NOT_COMPILED = re.compile(r"#\s*if(?:ndef KVFIT_COMPILED\b| !defined\(KVFIT_COMPILED\)\s*(?://.*)?$)")


class Amalgamation:
    def __init__(self):
        self.lines = []
        self.seen = set()

    def add(self, name):
        if name in self.seen:
            return
        self.seen.add(name)
        conditions = []  # of each #if: None, or whether its lines are kept and whether it is about KVFIT_COMPILED
        text = (include / name).read_text(encoding="utf-8")
        self.lines.append(f"// ---- {name}")
        for number, line in enumerate(text.splitlines(), 1):
            if re.match(r"#\s*if", line):
                if COMPILED.match(line):
                    conditions.append(False)
                    continue
                if NOT_COMPILED.match(line):
                    conditions.append(True)
                    continue
                conditions.append(None)
            elif re.match(r"#\s*el(se|if)", line) and conditions and conditions[-1] is not None:
                conditions[-1] = not conditions[-1]
                continue
            elif re.match(r"#\s*endif", line):
                if conditions.pop() is not None:
                    continue
            if False in conditions or line.startswith("#pragma once") or line.startswith("// SPDX"):
                continue
            own = OWN.match(line)
            if not own:
                self.lines.append(line)
            elif any(condition is None for condition in conditions):
                sys.exit(f"{name}:{number}: includes under a condition, which one file can't follow")
            else:
                self.add(own[1])


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out = Amalgamation()
    for name in sys.argv[2:] or defaults:
        out.add(name)
    version = (include / "kvfit/core/version.hpp").read_text(encoding="utf-8")
    numbers = ".".join(re.findall(r"define KVFIT_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", version))
    head = [
        "// SPDX-License-Identifier: MIT",
        f"/// kvfit {numbers} in one header, made by tools/amalgamate.py: compact(), its presets, attend(), and views.",
        "/// Needs C++20, Eigen 3.4 or 5, and xsimd 8.1 to 14.",
        "#pragma once",
        "",
        "#if defined(KVFIT_COMPILED)",
        '#error "this is header-only kvfit; with kvfit::compiled include its headers"',
        "#endif",
    ]
    text = "\n".join([*head, *out.lines]) + "\n"
    pathlib.Path(sys.argv[1]).write_text(re.sub(r"\n{3,}", "\n\n", text), encoding="utf-8")
    print(f"{sys.argv[1]}: {text.count(chr(10)):,} lines of {len(out.seen)} headers")


main()
