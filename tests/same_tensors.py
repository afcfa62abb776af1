#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whether two safetensors files hold the same tensors, bit for bit: same_tensors.py A B

Metadata may differ, for it holds times. Prints each tensor that differs; exits 1 if one does.
"""

import json
import struct
import sys


def tensors(path):
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        found[name] = (entry["dtype"], entry["shape"], data[8 + length + begin : 8 + length + end])
    return found


a, b = tensors(sys.argv[1]), tensors(sys.argv[2])
if not a:
    sys.exit(f"{sys.argv[1]}: no tensors")
different = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
for name in different:
    print(f"  {name}: {a[name][:2] if name in a else 'absent'} against {b[name][:2] if name in b else 'absent'}")
sys.exit(1 if different else 0)
