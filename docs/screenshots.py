"""The playground as it looks: `python docs/screenshots.py [--out docs/figures] [--everything]`, a minute.

figures/playground.png, figures/playground-run.png: a drawn scene and a run of drawn scenes, in a real Chromium. With
`--everything` also each tab and the run's report, in a desktop and in a narrow window, to be looked at.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))

from browser import Server, chromium, until  # noqa: E402 -- beside the tests
from visit import Visit  # noqa: E402

from clip_es.pipelines.cli import main as clip_es  # noqa: E402
from clip_es.scenes.dataset import ScenesConfig, make, scene_of  # noqa: E402
from clip_es.scenes.draw import CLASSES  # noqa: E402

PICTURES = 16
DESKTOP, NARROW = (1180, 900), (390, 844)


def shoot(window: Any, path: Path, height: int | None = None) -> None:
    """The page, or its upper `height` pixels, in few colours so that the file is small."""
    shown = window.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
    image = Image.open(io.BytesIO(base64.b64decode(shown["data"]))).convert("RGB")
    if height:
        image = image.crop((0, 0, image.width, min(height, image.height)))
    image.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def sized(window: Any, size: tuple[int, int]) -> None:
    """A window of this size, narrower than a desktop allows too."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def show_picture(visit: Visit, number: int) -> None:
    """A scene with its labels, and what the page makes of them."""
    scene = scene_of(ScenesConfig(), "val", number)
    path = visit.folder / f"val_{number:06}.png"
    Image.fromarray(scene.picture).save(path)
    visit.label(*(CLASSES[k] for k in scene.class_ids))
    visit.bring(path)
    until(lambda: len(visit.sources("#mask")) == 2, what="the mask")


def show_run(visit: Visit) -> None:
    """The run, with its least sure picture under the brush."""
    visit.tab("Run")
    until(lambda: visit.all("#strip img"), what="the pictures of the run")
    visit.press("#strip button[data-picture]")
    until(lambda: "paint what is wrong" in visit.text("#mender .told"), what="the brush")
    visit.run("window.scrollTo(0, 0)")


def everything(visit: Visit, out: Path, name: str, number: int) -> None:
    """Each tab, with all parts unfolded."""
    shoot(visit.window, out / f"{name}-empty.png")
    show_picture(visit, number)
    for part in ("words", "compare", "export"):
        visit.unfold(part)
    visit.press("#compare-go")
    until(lambda: visit.all("#comparison section.column"), what="the comparison")
    shoot(visit.window, out / f"{name}-picture.png")
    visit.tab("Ask")
    visit.write("prompts", "\n".join(CLASSES[k] for k in scene_of(ScenesConfig(), "val", number).class_ids))
    visit.press("#ask-go")
    until(lambda: visit.sources("#answers"), what="the answers")
    shoot(visit.window, out / f"{name}-ask.png")
    show_run(visit)
    shoot(visit.window, out / f"{name}-run.png")


def main() -> None:
    """Make a run, serve it, look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "figures")
    parser.add_argument("--weights", default="scenes")
    parser.add_argument("--scene", type=int, default=3, help="number of the scene that is dropped")
    parser.add_argument("--everything", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "scenes", ScenesConfig(train=0, val=PICTURES))
        run = folder / "run"
        flags = ["--split", "val", "--weights", args.weights, "--out", str(run)]
        if clip_es(["masks", "scenes", "--root", str(folder / "scenes"), *flags]):
            sys.exit("The run has failed.")
        with Server(str(run), log=folder / "log") as server, chromium() as window:
            visit = Visit(window, server, folder)
            for kind, size in (("desktop", DESKTOP), ("narrow", NARROW)) if args.everything else ():
                sized(window, size)
                visit.come()
                everything(visit, args.out, kind, args.scene)
                window.get((run / "report.html").as_uri())
                shoot(window, args.out / f"{kind}-report.png")
            sized(window, DESKTOP)
            visit.come()
            show_picture(visit, args.scene)
            shoot(window, args.out / "playground.png", 1000)
            show_run(visit)
            shoot(window, args.out / "playground-run.png", 1300)


if __name__ == "__main__":
    main()
