"""LightGBM, imported where it finds its libgomp.so.1: a bare machine may lack it, and the torch wheel carries one."""

import torch  # noqa: F401 - first

# isort: split
import lightgbm as lightgbm
