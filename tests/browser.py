"""Pages in a real browser, headless: what it makes of a file, how it looks, what it complains about. Load with `runpy.run_path`.

Without a browser (``chromium``, ``google-chrome``) `find` returns None, and tests that need one are skipped.
"""

import html
import http.server
import json
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

SECONDS = 120
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Runs after the page in a frame beside it: what was loaded, what went wrong, what is there and how large it is.
_PROBE = """<!doctype html><html><body><iframe id="page" style="width:%(width)dpx;height:900px;border:0"></iframe><pre id="answer"></pre>
<script>
const frame = document.getElementById("page"), errors = [];
frame.addEventListener("load", () => {
  const inner = frame.contentWindow, doc = inner.document;
  if (doc.readyState !== "complete" || inner.location.href === "about:blank") return;
  const box = (e) => { const r = e.getBoundingClientRect(); return [Math.round(r.width), Math.round(r.height)]; };
  const ids = [...doc.querySelectorAll("[id]")].map((e) => e.id);
  const used = [...doc.querySelectorAll("use")].map((e) => e.getAttribute("href").slice(1));
  document.getElementById("answer").textContent = JSON.stringify({
    title: doc.title, headings: [...doc.querySelectorAll("h2")].map((e) => e.textContent),
    pictures: [...doc.querySelectorAll("svg")].map(box),
    tables: [...doc.querySelectorAll("table")].map(box), width: doc.documentElement.scrollWidth,
    loaded: inner.performance.getEntriesByType("resource").map((e) => e.name), repeated: ids.filter((id, i) => ids.indexOf(id) !== i),
    dangling: used.filter((id) => !ids.includes(id)), scripts: doc.scripts.length, text: doc.body.innerText,
  });
});
frame.src = "page.html";
</script></body></html>"""


class Seen(NamedTuple):
    """What a browser made of a page. Sizes are in pixels, width before height."""

    title: str
    headings: list[str]
    pictures: list[list[int]]
    tables: list[list[int]]
    width: int
    loaded: list[str]
    repeated: list[str]
    dangling: list[str]
    scripts: int
    text: str
    console: list[str]
    requests: list[str]


def find():
    """The browser's command; None if there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def dump_dom(path):
    """The document that a file has become, as HTML."""
    return _run(f"file://{Path(path).resolve()}", "--dump-dom")[0]


def screenshot(path, png, width=1200, height=1600, dark=False):
    """Draw a file into a PNG file."""
    dark = ["--blink-settings=preferredColorScheme=0"] if dark else []
    _run(f"file://{Path(path).resolve()}", f"--screenshot={png}", f"--window-size={width},{height}", "--hide-scrollbars", *dark)


def look(path, width=1100):
    """Open a page from a server of this test, which sees every request, and say what is on it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "page.html").write_bytes(Path(path).read_bytes())
        Path(folder, "probe.html").write_text(_PROBE % {"width": width})
        requests = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=folder)

            def log_message(self, *args):
                requests.append(self.path)

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            dom, log = _run(f"http://127.0.0.1:{server.server_port}/probe.html", "--dump-dom", "--virtual-time-budget=8000")
            server.shutdown()
    answer = re.search(r'<pre id="answer">(.*?)</pre>', dom, re.DOTALL)
    assert answer, dom[-500:]
    assert answer[1], "the page did not load"
    data = json.loads(html.unescape(answer[1]))
    strange = [name for name in requests if name not in ("/probe.html", "/page.html", "/favicon.ico")]
    console = [line for line in log.splitlines() if "CONSOLE" in line]
    return Seen(**data, console=console, requests=strange)


def check(path, headings=None, width=1100):
    """Assert what holds for every page: nothing loaded, no complaint, every picture visible, no id twice, no wider than the window."""
    seen = look(path, width)
    assert (seen.console, seen.requests, seen.scripts) == ([], [], 0)
    assert [name for name in seen.loaded if not name.startswith("data:")] == []
    assert (seen.repeated, seen.dangling) == ([], [])
    assert all(min(size) > 30 for size in seen.pictures), seen.pictures
    assert seen.width <= width
    if headings is not None:
        assert seen.headings == list(headings)
    return seen


def _run(address, *options):
    """Standard output and standard error of the browser."""
    with tempfile.TemporaryDirectory(prefix="browser-") as profile:
        done = subprocess.run(
            [
                find(), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--no-first-run",
                "--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={profile}", *options, address,
            ],
            capture_output=True, text=True, timeout=SECONDS,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr
