#!/usr/bin/env python3
"""Writes what the goldens' test saw into the table of architectures of README.md.

    engine_models_test --gtest_output=xml:RESULTS
    python tests/goldens/table.py RESULTS

Of each model type: the repositories, the last commit that changed them, the largest difference of a
float32 logit (of a number of the last layer where vectors are made) as a share of the largest one, and
the mean distance of bfloat16 from float32 over that of transformers.
"""

import json
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "data" / "models"


def seen(results):
    """Repository -> property -> value."""
    figures = {}
    for case in xml.etree.ElementTree.parse(results).iter("testcase"):
        repository = case.get("name").split("/")[-1].replace("_", "-")
        for item in case.iter("property"):
            figures.setdefault(repository, {})[item.get("name")] = float(item.get("value"))
    return figures


def rows(figures):
    by_type = {}
    for path in sorted([*MODELS.glob("*/goldens.json"), *MODELS.glob("*/vectors.json")]):
        model_type = json.loads((path.parent / "config.json").read_text())["model_type"]
        by_type.setdefault(model_type, []).append(path.parent)
    for model_type, folders in by_type.items():
        commit = subprocess.run(
            ["git", "log", "-1", "--format=%h", "--", *folders],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        of_type = [figures[folder.name] for folder in folders]
        yield (
            model_type,
            f" {len(folders)}, {commit} "
            f"| {max(x['largest_distance'] for x in of_type):.0e} "
            f"| {max(x['bf16_mean_share'] for x in of_type):.2f} |",
        )


def main():
    readme = ROOT / "README.md"
    text = readme.read_text()
    for model_type, cells in rows(seen(sys.argv[1])):
        row = re.compile(rf"^(\| `{re.escape(model_type)}` \|[^|\n]*\|).*$", re.MULTILINE)
        if not row.search(text):
            raise SystemExit(f"README.md has no row for {model_type}")
        text = row.sub(lambda match, cells=cells: match[1] + cells, text)
    readme.write_text(text)


if __name__ == "__main__":
    main()
