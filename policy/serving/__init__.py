"""Serving: vLLM with the catalog constraint, behind a thin gateway that logs every decision with its propensity."""
