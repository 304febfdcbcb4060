"""Bring runs/bench/results.json to the figures that others read; everything else goes to details.json.

    python benchmarks/collect.py [--out runs/bench]      # after cam.py, crf_agreement.py, operations.py

The ratio of the CRFs becomes that over all pictures of crf_agreement.py, in place of one picture's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

KEYS = (
    "cam_over_floor",
    "end_to_end_over_published",
    "published_over_floor",
    "crf_native_over_pydensecrf",
    "operations_per_picture",
    "bytes_over_published",
    "bf16_over_floor",
    "peak_mib",
)


def main() -> None:
    """Split results.json in two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    out: Path = parser.parse_args().out
    measured = json.loads((out / "results.json").read_text())
    crf = json.loads((out / "crf.json").read_text())
    measured["crf_native_over_pydensecrf"] = crf["native_over_pydensecrf"]
    measured["operations_per_picture"] = json.loads((out / "operations.json").read_text())
    results = {key: measured[key] for key in KEYS}
    details = {key: value for key, value in measured.items() if key not in KEYS}
    if details:  # A second call finds them split already.
        (out / "details.json").write_text(json.dumps(details, indent=2) + "\n")
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
