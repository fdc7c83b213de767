#!/usr/bin/env python3
"""Measures a map page in headless Chromium: first paint, and frames while panning and zooming.

    scripts/map_frames.py out.sparkc/map.html [--browser chromium] [--size 1480x920]
                          [--shot FILE.png [--hash STATE]]

Prints one JSON object on stdout:
  first_paint_ms   from the start of navigation to the first contentful paint (it holds the map)
  frame_p95_ms     95th percentile of the time of a frame that draws, from its begin to the begin of the
                   next, over 15 s of dragging and wheeling, on the whole wafer, on a region and on single
                   tiles. The browser paces no frames here: at 60 Hz every time would be rounded to
                   multiples of 16.7 ms, whatever the page does
  missed_at_60_hz     share of these frames that would miss the next picture at 60 Hz
  script_p95_ms    95th percentile of the time the page's script takes for one frame
  by_view          the same per view and colour mode
With --shot it only writes a picture of the page. Standard library only; drives the browser through
its debugging pipe.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import time


class Browser:
    """A headless Chromium with one page."""

    def __init__(self, program, size):
        to_browser, to_browser_w = os.pipe()
        from_browser_r, from_browser = os.pipe()

        def wire():
            # Chromium reads commands from 3 and writes answers to 4.
            os.dup2(os.dup(to_browser), 13)
            os.dup2(os.dup(from_browser), 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-background-networking",
             "--disable-frame-rate-limit", "--disable-gpu-vsync", "--hide-scrollbars", "--remote-debugging-pipe", f"--window-size={size[0]},{size[1]}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=wire)
        os.close(to_browser)
        os.close(from_browser)
        self.out = os.fdopen(to_browser_w, "wb", buffering=0)
        self.input = os.fdopen(from_browser_r, "rb", buffering=0)
        self.buffer = b""
        self.last = 0
        self.session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.send("Page.enable")
        self.send("Runtime.enable")
        self.send("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1],
                  deviceScaleFactor=1, mobile=False)

    def post(self, method, **params):
        """Sends a command without waiting for its answer."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        return self.last

    def send(self, method, **params):
        number = self.post(method, **params)
        while True:
            while b"\0" not in self.buffer:
                piece = os.read(self.input.fileno(), 1 << 16)
                if not piece:
                    sys.exit("the browser ended")
                self.buffer += piece
            line, self.buffer = self.buffer.split(b"\0", 1)
            message = json.loads(line)
            if message.get("method") == "Runtime.exceptionThrown":
                sys.exit(f"the page threw: {json.dumps(message['params'])[:800]}")
            if message.get("id") == number:
                if "error" in message:
                    sys.exit(f"{method}: {message['error']}")
                return message["result"]

    def run(self, expression):
        result = self.send("Runtime.evaluate", expression=expression, awaitPromise=True,
                           returnByValue=True)
        if "exceptionDetails" in result:
            sys.exit(f"{expression}: {json.dumps(result['exceptionDetails'])[:800]}")
        return result["result"].get("value")

    def open(self, page, state):
        self.send("Page.navigate", url=f"file://{os.path.abspath(page)}{state}")
        for _ in range(600):
            if self.run("(document.documentElement || {dataset: {}}).dataset.ready") == "true":
                return
            time.sleep(0.02)
        sys.exit("the page is not ready after 12 s")

    def mouse(self, kind, x, y, **more):
        self.post("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def close(self):
        self.post("Browser.close")
        self.process.wait(timeout=20)


# Frames as the page sees them: from the begin of one that draws to the begin of the next (script, paint and
# what the browser waits for until it can go on), and what its script took. The page dispatches
# `mapframe` events with the time of each drawing; all callbacks of a frame see one timeline time.
WATCH = """
(() => {
  const w = window.watch = {gaps: [], scripts: [], on: true};
  let frame = 0, begin = 0, drawn = -1;
  const tick = () => {
    const now = performance.now();
    if (frame && drawn === frame) w.gaps.push(now - begin);
    [frame, begin] = [document.timeline.currentTime, now];
    if (w.on) requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  addEventListener("mapframe", e => { w.scripts.push(e.detail); drawn = document.timeline.currentTime; });
})()
"""


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else None


def drag_and_wheel(browser, size, seconds):
    """Moves as a hand does: about 100 events a second."""
    x, y = size[0] * 0.4, size[1] * 0.45
    browser.mouse("mousePressed", x, y, button="left", clickCount=1)
    begin = time.time()
    step = 0
    while time.time() - begin < seconds * 0.5:
        step += 1
        dx = 160 * abs((step % 80) / 40 - 1) - 80
        browser.mouse("mouseMoved", x + dx, y + dx / 2, button="left", buttons=1)
        time.sleep(0.01)
    browser.mouse("mouseReleased", x, y, button="left", clickCount=1)
    while time.time() - begin < seconds:
        step += 1
        browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=40 if step // 20 % 2 else -40)
        time.sleep(0.01)


def state(plan, mode, place):
    """The page's address for a colour mode, on the wafer, a region or 24 pixels a tile in its middle."""
    if place == "wafer" or not plan["regions"]:
        return f"mode={mode}"
    region = plan["regions"][len(plan["regions"]) // 4]
    if place == "region":
        return f"mode={mode}&region={region['name']}"
    left, top = (24 * (region[a] + region[b] // 2) - 300 for a, b in ["xw", "yh"])
    return f"mode={mode}&view=24,{-left},{-top}&cycle={plan['claims']['token'] * 0.25}"


def measure(browser, page, size):
    first = []
    for _ in range(5):
        browser.open(page, "")
        for _ in range(100):
            paint = browser.run("(performance.getEntriesByName('first-contentful-paint')[0] || {}).startTime")
            if paint is not None:
                break
            time.sleep(0.02)
        first.append(paint)
        browser.send("Page.navigate", url="about:blank")
    views = {}
    gaps, scripts = [], []
    browser.open(page, "")
    plan = json.loads(browser.run("document.getElementById('plan').textContent"))
    for mode in ["layer", "sram", "kv", "role", "links"]:
        for place in ["wafer", "region", "tiles"]:
            browser.run(f"location.hash = {json.dumps(state(plan, mode, place))}")
            time.sleep(0.3)
            browser.run(WATCH)
            drag_and_wheel(browser, size, 1.0)
            seen = browser.run("(watch.on = false, {gaps: watch.gaps, scripts: watch.scripts})")
            views[f"{mode}, {place}"] = {
                "frames": len(seen["gaps"]),
                "frame_p95_ms": percentile(seen["gaps"], 0.95),
                "script_p95_ms": percentile(seen["scripts"], 0.95),
            }
            gaps += seen["gaps"]
            scripts += seen["scripts"]
    return {
        "first_paint_ms": percentile(first, 0.5),
        "first_paint_all_ms": first,
        "frame_p95_ms": percentile(gaps, 0.95),
        "frame_p50_ms": percentile(gaps, 0.5),
        "missed_at_60_hz": sum(gap > 16.7 for gap in gaps) / max(len(gaps), 1),
        "script_p95_ms": percentile(scripts, 0.95),
        "frames": len(gaps),
        "by_view": views,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page")
    parser.add_argument("--browser")
    parser.add_argument("--size", default="1480x920")
    parser.add_argument("--shot")
    parser.add_argument("--hash", default="")
    options = parser.parse_args()
    names = [options.browser] if options.browser else ["chromium", "chromium-browser", "google-chrome"]
    program = next((p for p in map(shutil.which, names) if p), None)
    if not program:
        sys.exit(f"no browser found: {', '.join(names)}; name one with --browser")
    size = [int(n) for n in options.size.split("x")]
    browser = Browser(program, size)
    if options.shot:
        browser.open(options.page, f"#{options.hash}" if options.hash else "")
        time.sleep(0.4)
        picture = browser.send("Page.captureScreenshot", format="png")["data"]
        with open(options.shot, "wb") as file:
            file.write(base64.b64decode(picture))
    else:
        print(json.dumps(measure(browser, options.page, size), indent=1))
    browser.close()


if __name__ == "__main__":
    main()
