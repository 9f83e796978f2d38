"""A headless Chromium, for tests of pages: the document after its script ran.

Nothing steers the browser but the page's address, and events that a test puts
into a copy of the page.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess

import pytest

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# What the browser itself asks its maker for, whatever it shows.
_OWN = re.compile(r"https?://(?:clients2|accounts|www)\.google\.com/")

needed = pytest.mark.skipif(
  not _CHROMIUM, reason="needs chromium in the PATH to look at pages"
)


@dataclasses.dataclass(frozen=True)
class Shown:
  """What became of a page.

  Attributes:
    dom: the document as HTML.
    console: what was said there, errors of the page's policy too.
    requests: addresses that were asked for, but for files and data.
  """

  dom: str
  console: list[str]
  requests: list[str]


def show(path, folder, place="") -> Shown:
  """Opens a file at a place such as "#turn=2"; `folder` is the browser's."""
  folder.mkdir(exist_ok=True)
  log = folder / "net.json"
  done = subprocess.run(
    [
      *(_CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"),
      *("--no-first-run", "--disable-background-networking"),
      *("--disable-component-update", "--disable-sync", "--disable-extensions"),
      "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing gets out
      f"--user-data-dir={folder}/profile",
      *("--enable-logging=stderr", f"--log-net-log={log}"),
      *("--virtual-time-budget=3000", "--dump-dom", f"file://{path}{place}"),
    ],
    env={**os.environ, "HOME": str(folder)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  console = re.findall(r':CONSOLE[^"]*"(.*)", source:', done.stderr)
  requests = {
    event["params"]["url"]
    for event in json.loads(log.read_text())["events"]
    if "url" in event.get("params", {})
  }
  outside = sorted(
    url
    for url in requests
    if not url.startswith(("file:", "data:", "chrome")) and not _OWN.match(url)
  )
  return Shown(done.stdout, console, outside)
