"""report.html: a video, its detections and ground truth on one page that needs nothing but a browser.

The page (page.html beside this file) holds its data as JSON and refers to the video by a relative path: it opens from
file://, and asks for nothing over the network, which its Content-Security-Policy also forbids.
"""

import html
import json
import os
import pathlib
import string
import urllib.parse
from collections.abc import Sequence

from tadjax.detections.decode import Detections
from tadjax.files import write_whole
from tadjax.report.timeline import Instances

TEMPLATE = pathlib.Path(__file__).with_name("page.html")


def write_page(
    path: str | os.PathLike[str],
    video: str | os.PathLike[str],
    duration: float,
    fps: float,
    truth: Instances | None,
    found: Detections,
    classes: Sequence[str],
) -> None:
    """Writes the page to `path`. The video stays where it is: move both, or neither.

    duration: seconds from 0 of the player's clock, which is that of the detections, to the end. fps: for stepping frame
    by frame. truth: None where there is none. Labels are indices into `classes`; all detections given can be shown, the
    page's slider hides those below a score.
    """
    path = pathlib.Path(path)
    name = os.fsencode(os.path.basename(video)).decode("utf-8", "replace")
    order = found.scores.argsort(kind="stable")[::-1]
    data = {
        "video": name,
        "source": relative_url(video, path.parent),
        "duration": duration,
        "fps": fps,
        "classes": list(classes),
        "detections": [
            [round(start, 3), round(end, 3), label, round(score, 4)]
            for (start, end), label, score in zip(
                found.segments[order].tolist(), found.labels[order].tolist(), found.scores[order].tolist(), strict=True
            )
        ],
        "truth": None
        if truth is None
        else [
            [round(start, 3), round(end, 3), label]
            for (start, end), label in zip(truth.segments.tolist(), truth.labels.tolist(), strict=True)
        ],
    }
    # Inside a script element only "</script" and "<!--" mean anything; JSON can write "<" otherwise.
    content = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    write_whole(path, template.substitute(title=html.escape(name), data=content))


def relative_url(video: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """The video's address as seen from a page in `folder`, every character escaped that would mean something else."""
    relative = os.path.relpath(os.path.abspath(video), os.path.abspath(folder))
    return urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))
