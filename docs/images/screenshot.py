r"""A picture of a report for the documentation.

    python docs/images/screenshot.py runs/line/report.html docs/images/report_line.png \
        --top 150 --height 960

needs playwright and a Chromium, whose path is in the environment variable CHROMIUM.
"""

import argparse
import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


def main() -> None:
    """Writes the top of a page as a PNG file."""
    parser = argparse.ArgumentParser(description="Take a picture of a report.")
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--top", type=int, default=0, help="pixels to leave out above")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu"],
        )
        page = browser.new_page(
            viewport={"width": options.width, "height": options.height},
            color_scheme="dark" if options.dark else "light",
        )
        page.goto(options.page.resolve().as_uri())
        page.evaluate(f"window.scrollTo(0, {options.top})")
        shot = page.screenshot()
        browser.close()
    Image.open(io.BytesIO(shot)).convert("RGB").save(options.picture, optimize=True)


if __name__ == "__main__":
    main()
