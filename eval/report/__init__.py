"""One self-contained HTML page and one JSON with the same numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path

from eval.report.inputs import ReportInputs
from eval.report.numbers import report_numbers
from eval.report.page import render

PAGE_LIMIT = 3_000_000  # bytes


def make_report(inputs: ReportInputs, folder: Path) -> dict[str, object]:
    """Writes `folder`/report.json and `folder`/index.html (each whole or not at all) and returns the numbers."""
    report = report_numbers(inputs)
    page = render(report)
    assert len(page.encode()) < PAGE_LIMIT, f"a page of {len(page.encode()):,} bytes; show fewer slates"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False))
    write_whole(folder / "index.html", page)
    return report


def write_whole(path: Path, text: str) -> None:
    """Writes beside `path` and renames into place."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


__all__ = ["PAGE_LIMIT", "ReportInputs", "make_report", "render", "report_numbers"]
