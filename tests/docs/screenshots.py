"""The README's pictures, of a real run: docs/watch.svg halfway through it, docs/report.png of its report.

make screenshots        needs the embedded AWS up (make local) and a Chromium (make chromium)
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT / "tests" / "infra" / "report"))

from chromium import Chromium  # noqa: E402

from infra.cli.local import running_target  # noqa: E402
from infra.cli.observe import Observer  # noqa: E402
from infra.cli.progress import RunView  # noqa: E402
from infra.cli.results import fetch_report  # noqa: E402
from infra.cli.screen import LiveScreen  # noqa: E402
from infra.cli.start import start_execution  # noqa: E402

COLUMNS = 96
REPORT_HEIGHT = 1500


def watch_picture(view: RunView, path: Path) -> None:
    """The screen of `pretrain watch` as SVG."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True)
    console.print(LiveScreen().render(view))
    picture = console.export_svg(title=f"pretrain watch {view.run_id} --local")
    path.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.S))  # rich names a font on the web; the picture asks for none


def main(root: Path) -> None:
    """Start a run; take the pictures halfway and at its end."""
    target = running_target(root)
    if target is None:
        sys.exit(f"the embedded AWS of {root} is not running; start it: make local")
    execution = start_execution(target, {"recipe": "local", "run_id": f"evening-{time.strftime('%H%M')}"})
    observer, pictured = Observer(target, execution), False
    while not (view := observer.look()).ended:
        if not pictured and view.legs and view.legs[0].step >= view.legs[0].steps / 2:
            watch_picture(view, PROJECT / "docs" / "watch.svg")
            pictured = True
        time.sleep(1)
    if view.status != "SUCCEEDED":
        sys.exit(f"the run {view.run_id} {view.status.lower()}: {view.sentence}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = fetch_report(target, view.run_id, Path(folder))
        browser = Chromium(Path(folder))
        try:
            browser.open(page, width=1100, height=REPORT_HEIGHT)
            browser.screenshot(PROJECT / "docs" / "report.png", whole=False)
        finally:
            browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT)
