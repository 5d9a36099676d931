"""Prints score against parameters from the results.json files below a folder: a start for an analysis of your own."""

import json
import sys
from pathlib import Path

if len(sys.argv) != 2:
    sys.exit("usage: python analyze_results.py eval_results/")

for path in sorted(Path(sys.argv[1]).glob("*/*/results.json")):
    results = json.loads(path.read_text())
    params = " ".join(f"{name}={value}" for name, value in results["params"].items())
    for score in results["scores"]:
        metrics = " ".join(f"{name}={value:.4f}" for name, value in score["metrics"].items())
        print(results["run"], params, results["task"], score["scorer"], metrics, sep="\t")
