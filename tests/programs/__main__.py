"""Runs programs in one process: `python programs FOLDER DEVICE [PROGRAM IMPORT ...]`.

Each runs with what stands between its marks replaced by IMPORT, or as it is where that is empty. What became of each is
printed as JSON in the last line: its history of training, or how it failed.
"""

import json
import re
import sys
import traceback
from pathlib import Path

pairs = sys.argv[3:]
found = []
for name, replacement in zip(pairs[::2], pairs[1::2], strict=True):
    path = Path(__file__).with_name(f"{name}.py")
    text = path.read_text()
    if replacement:
        text, count = re.subn("# <import>.*# </import>", replacement, text, flags=re.DOTALL)
        assert count == 1
    try:
        variables = {"__name__": "__main__"}
        exec(compile(text, str(path), "exec"), variables)
        found.append(variables["history"])
    except Exception:
        found.append(traceback.format_exc())
print(json.dumps(found))
