"""One headless Chromium for all pages: fits and checks the texts of each, and takes its picture."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from press.canvas import Draft, smallest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--force-device-scale-factor=1",
)  # fmt: skip
# Texts marked data-fit shrink until they fit their own boxes and all fit the page. Then every text
# must be large enough, within the page and its table's cell, and apart from every other; its box
# is taken without the air that a face leaves above and below its letters.
CHECK = """
const [smallest, done] = arguments;
document.fonts.ready.then(() => {
  const sized = (e) => parseFloat(getComputedStyle(e).fontSize);
  const shrink = (e) => { e.style.fontSize = Math.max(smallest, sized(e) * 0.95) + 'px'; };
  const fits = [...document.querySelectorAll('[data-fit]')];
  for (const e of fits)
    while (e.scrollWidth > e.clientWidth + 1 && sized(e) > smallest) shrink(e);
  const page = document.querySelector('[data-page]') || document.body;
  while (page.scrollHeight > page.clientHeight + 1 && fits.some((e) => sized(e) > smallest))
    fits.forEach(shrink);
  if (page.scrollHeight > page.clientHeight + 1) return done('the page overflows');
  for (const face of document.fonts) if (face.status == 'error') return done('a face is broken');
  const boxes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim()) continue;
    if (sized(parent) < smallest - 0.01) return done('too small: ' + node.data);
    const range = document.createRange();
    range.selectNodeContents(node);
    const svg = parent instanceof SVGElement;
    const holder = parent.closest('td, th');
    const limit = holder ? holder.getBoundingClientRect() : null;
    for (const r of svg ? [parent.getBoundingClientRect()] : range.getClientRects()) {
      if (r.width < 1) continue;
      const air = r.height * 0.15;
      const box = [r.left, r.top + air, r.right, r.bottom - air];
      if (box[0] < 1 || box[1] < 1 || box[2] > innerWidth - 1 || box[3] > innerHeight - 1)
        return done('outside: ' + node.data);
      if (limit && (limit.right > innerWidth || limit.bottom > innerHeight
                    || box[0] < limit.left || box[2] > limit.right + 0.5
                    || box[1] < limit.top || box[3] > limit.bottom))
        return done('out of its box: ' + node.data);
      if (boxes.some((b) => b[0] < box[2] && box[0] < b[2] && b[1] < box[3] && box[1] < b[3]))
        return done('overlaps: ' + node.data);
      boxes.push(box);
    }
  }
  done(boxes.length ? '' : 'no text');
});
"""


class Browser:
    def __init__(self, folder: Path) -> None:
        from selenium import webdriver  # only this command needs it, not who reads its pictures
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(flag)
        options.binary_location = shutil.which("chromium") or "chromium"
        self.page = folder / "page.html"
        self.driver: Any = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        self.refused: dict[str, int] = {}  # how often, by reason

    def picture(self, draft: Draft) -> Image.Image | None:
        """None if a text does not fit."""
        width, height = draft.width, draft.height
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.page.write_text(draft.html)
        self.driver.get(self.page.as_uri())
        problem = self.driver.execute_async_script(CHECK, smallest(width, height))
        if problem:
            reason = problem.partition(":")[0]
            self.refused[reason] = self.refused.get(reason, 0) + 1
            return None
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        image = Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
        if image.size != (width, height):
            raise RuntimeError(f"a picture of {image.size} instead of {(width, height)}")
        return image

    def close(self) -> None:
        self.driver.quit()
