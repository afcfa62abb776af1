# SPDX-License-Identifier: MIT
"""Holds libkvfit_c against the dump of the last release's ABI by abidiff.

abidiff takes a struct whose fields the dump does not have for equal to any other, so the dump must have all
fields of every struct that the header defines.
"""

import re
import subprocess
import sys

abidiff, dump, library, header = sys.argv[1:]
text = re.sub(r"/\*.*?\*/", "", open(header, encoding="utf-8").read(), flags=re.DOTALL)
defined = {name: body.count(";") for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\n\}", text, re.DOTALL)}
dumped = {}
current = None
for line in open(dump, encoding="utf-8"):
    begins = re.search(r"<class-decl name='(kvfit_\w+)' size-in-bits='\d+'", line)
    if begins:
        current = begins.group(1)
        dumped[current] = 0
    elif current and "<data-member " in line:
        dumped[current] += 1
    elif "</class-decl>" in line:
        current = None
wrong = {name: dumped.get(name) for name, fields in defined.items() if dumped.get(name, 0) > fields or not dumped.get(name)}
for name, fields in sorted(wrong.items()):
    print(f"{dump}: {name} has {fields or 'no'} fields, the header {defined[name]}")
print(f"{len(defined)} structs in the header")
if wrong or not defined:
    sys.exit(1)
sys.exit(subprocess.run([abidiff, "--no-added-syms", "--exported-interfaces-only", dump, library]).returncode)
