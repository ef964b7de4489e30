"""The page in a real browser: nothing on the console, every figure drawn, no sideways scrolling on a phone."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eval.report import make_report
from tests.eval.made_up import log_inputs, world_inputs

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=3000",
)  # fmt: skip

# Chromium's own window does not get as narrow as a phone, so the page is looked at inside frames: phone and desk.
HARNESS = """<!doctype html><meta charset="utf-8"><pre id="found"></pre><script>
const box = (shape) => shape.getBoundingClientRect(), found = {};
for (const width of [390, 1200]) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:2000px;border:0`;
  frame.onload = () => {
    const seen = frame.contentDocument, drawings = [...seen.querySelectorAll("figure svg")];
    const texts = drawings.flatMap((d) => [...d.querySelectorAll("text")].map((t) => [d, t]));
    found[width] = {
      width: seen.documentElement.clientWidth,
      needed: seen.documentElement.scrollWidth,
      figures: seen.querySelectorAll("figure").length,
      drawn: drawings.filter((d) => box(d).width > 100 && box(d).height > 20 && d.childElementCount > 4).length,
      spilling: texts.filter(([d, t]) => box(t).right > box(d).right + 6 || box(t).left < box(d).left - 6)
        .map(([d, t]) => t.textContent),
      smallest: Math.min(...texts.map(([d, t]) => box(t).height)),
      lost: [...seen.querySelectorAll("nav a")].map((a) => a.hash).filter((to) => !seen.querySelector(to)),
      drawnIn: [...seen.querySelectorAll("section")].filter((s) => s.querySelector("figure svg")).map((s) => s.id),
      wideTables: [...seen.querySelectorAll(".scroll")].filter((s) => box(s).right > seen.documentElement.clientWidth)
        .map((s) => s.getAttribute("aria-label")),
      headline: seen.querySelector("h1").textContent,
    };
    document.getElementById("found").textContent = JSON.stringify(found);
  };
  frame.src = "index.html";
  document.body.append(frame);
}
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; the page is checked as text only")
@pytest.mark.parametrize("kind", ["world", "log"])
def test_page_in_headless_chromium(kind: str, tmp_path: Path) -> None:
    make_report(world_inputs(seeds=3) if kind == "world" else log_inputs(), tmp_path)
    harness = tmp_path / "look.html"
    harness.write_text(HARNESS)
    assert CHROMIUM is not None
    run = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", harness.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    seen = re.search(r'<pre id="found">(.+?)</pre>', run.stdout, flags=re.DOTALL)
    assert seen, f"the page did not load: {run.stderr[-500:]}"
    assert [line for line in run.stderr.splitlines() if "CONSOLE" in line] == []
    by_width = json.loads(seen.group(1))
    assert set(by_width) == {"390", "1200"}
    for width, found in by_width.items():
        assert found["width"] == int(width)
        assert found["needed"] <= found["width"], "the page scrolls sideways"
        assert found["figures"] == found["drawn"] > 3
        assert found["spilling"] == []
        assert found["smallest"] > 10, "text in a figure is too small to read"
        assert found["lost"] == [], "a link of the contents leads nowhere"
        assert found["wideTables"] == [], "a wide table must scroll by itself"
        if kind == "world":
            wanted = {"policies", "trade-off", "rewards", "pareto", "off-policy", "ranking", "exposure", "fairness"}
            wanted |= {"messages"}
            assert wanted <= set(found["drawnIn"])
        assert found["headline"]
