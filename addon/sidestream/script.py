"""What `mitmdump -s` and `mitmweb -s` load: the addon, wired as `sidestream run` wires it."""

import sys
from pathlib import Path

try:
    from sidestream.cli.wiring import make_addon
except ModuleNotFoundError as e:  # not installed where mitmproxy is: take it from beside this file
    if e.name != "sidestream":
        raise
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from sidestream.cli.wiring import make_addon

addons = [make_addon()]
