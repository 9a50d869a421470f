"""Where the benchmark's things are."""

import os
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CACHE = pathlib.Path(os.environ.get("MODELD_BENCH_CACHE", "~/.cache/modeld-bench/download")).expanduser()
