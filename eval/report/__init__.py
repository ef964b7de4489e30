"""One self-contained HTML page and one JSON with the same numbers."""
