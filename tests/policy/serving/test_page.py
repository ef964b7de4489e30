"""The now-playing page in headless Chromium, before the real server: it shows a session, a slate and what answers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from policy.serving.segments import read_decision_log
from tests.policy.serving.conftest import RunningServer

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--enable-logging=stderr",
)  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_page_in_headless_chromium(server: RunningServer, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    url = f"{server.url}/?user=u4&steer=something%20calmer,%20maybe%20a%20podcast&tradeoff=1"
    size = ("--window-size=500,1400", "--force-device-scale-factor=1", "--timeout=30000")
    line = [CHROMIUM, *FLAGS, *size, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000"]
    seen = subprocess.run([*line, "--dump-dom", url], capture_output=True, text=True, timeout=180, check=True)

    assert not [said for said in seen.stderr.splitlines() if "CONSOLE" in said], seen.stderr[-2000:]
    page = re.sub(r"<script>.*</script>", "", seen.stdout, flags=re.DOTALL)
    slate = re.search(r'<ol id="slate">(.*?)</ol>', page, flags=re.DOTALL)
    heard = re.search(r'<ol id="heard">(.*?)</ol>', page, flags=re.DOTALL)
    assert slate and heard
    shown = re.findall(r'data-item="(item-\d\d)"', slate.group(1))
    assert len(shown) == len(set(shown)) == 5
    assert "Quiet morning number" in slate.group(1)
    assert len(re.findall(r'data-item="item-\d\d"', heard.group(1))) == 10
    assert re.search(r'class="move">(continue|deepen|explore|switch)<', page)
    assert "midterm 0.25 : clicks 0.75" in page
    assert 'id="wrong" role="alert" hidden' in page
    (decision,) = re.findall(r"d-[0-9a-f]{32}", page)
    logged = read_decision_log(server.run / "served" / "decisions").filter(decision_id=decision).to_dicts()
    assert (logged[0]["slate"], logged[0]["steer"]) == (shown, "something calmer, maybe a podcast")


def test_what_the_page_asks_for(server: RunningServer) -> None:
    page = httpx.get(server.url)
    listener = httpx.get(f"{server.url}/v1/listeners/u1?count=3").json()
    found = httpx.get(f"{server.url}/v1/items", params={"q": "NUMBER 07", "count": 5}).json()
    podcasts = httpx.get(f"{server.url}/v1/items", params={"kind": "podcast", "count": 100}).json()

    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in re.sub(r"<script>.*</script>", "", page.text, flags=re.DOTALL)  # nothing from elsewhere
    assert set(httpx.get(f"{server.url}/v1/listeners").json()) <= {f"u{number}" for number in range(6)}
    assert (listener["time_zone"], listener["arm"], len(listener["heard"])) == ("Asia/Tokyo", "ppo", 3)
    assert [item["item_id"] for item in found] == []
    assert len(podcasts) == 20
    assert httpx.get(f"{server.url}/v1/listeners/nobody").json()["heard"] == []
    assert json.dumps(listener)


def test_items_are_found_by_their_words(server: RunningServer) -> None:
    (one,) = httpx.get(f"{server.url}/v1/items", params={"q": "quiet number 17"}).json()
    by_style = httpx.get(f"{server.url}/v1/items", params={"q": "style-3", "count": 100}).json()

    assert one["item_id"] == "item-17"
    assert [item["item_id"] for item in by_style] == [f"item-{row:02d}" for row in range(3, 60, 5)]
