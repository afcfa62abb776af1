# SPDX-License-Identifier: MIT
"""Compares the dynamic symbols of libkvfit_c with the functions that its header declares."""

import re
import subprocess
import sys

nm, library, header = sys.argv[1:]
text = re.sub(r"/\*.*?\*/", "", open(header, encoding="utf-8").read(), flags=re.DOTALL)
declared = set(re.findall(r"KVFIT_API[^;]*?\b(kvfit_\w+)\s*\(", text))
listed = subprocess.run([nm, "-D", "--defined-only", library], check=True, capture_output=True, text=True)
shown = {line.split()[2] for line in listed.stdout.splitlines() if line.split()[1] != "A"}
wanted = {f"{name}@@KVFIT_0.2" for name in declared}
print(f"{len(declared)} functions declared, {len(shown)} symbols shown")
for name in sorted(wanted ^ shown):
    print(("missing: " if name in wanted else "unexpected: ") + name)
sys.exit(0 if declared and wanted == shown else 1)
