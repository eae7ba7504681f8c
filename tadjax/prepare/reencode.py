"""Videos re-encoded to the size and frame rate that recipes assume: less to read, faster to decode, the rate constant.

    python -m tadjax.prepare thumos --reencode data/thumos14/videos_256

Frame n of a new file is the frame that the old one shows n / fps seconds after its first. Pictures are upright, never
enlarged, and keep their shape to the nearest even number of pixels. Where the old file's pictures start late on a
player's clock, the new one's do, too (but in a part of a file): annotations keep their meaning. The files are H.264 in
MP4, without sound; every GOP_SECONDS begins a closed group of pictures, so decoding, and cutting, can start there
(data/builders). One run at a time may write a folder; started again, it goes on with the files that are missing,
and makes those anew whose originals have changed: each carries the mark of its original (files.mark_of) as its comment.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path, PurePath

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter

from tadjax import ending
from tadjax.errors import DataError, DiskError
from tadjax.files import mark_of
from tadjax.prepare.jobs import keep_settings, run_all
from tadjax.video.folder import some_of
from tadjax.video.frame_index import FrameIndex, frame_index
from tadjax.video.frames import decode_range

GOP_SECONDS = 2
MAX_MISSING = 0.05  # share of a file's frames for which the frame before may stand in
SETTINGS = "encoding.json"  # beside the files: how they were encoded
COLOURS = ("color_range", "colorspace", "color_primaries", "color_trc")


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What a re-encoded video is to be like."""

    short_side: int = 256  # pixels at most: enough for 224 x 224 and for what augmentation cuts away
    fps: float = 0.0  # 0: the file's own; where that varies, its mean
    crf: int = 18  # x264's quality: 18 is hard to tell from the original


def reencode(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    encoding: Encoding,
    start: float = 0.0,
    end: float = math.inf,
) -> None:
    """Writes one video, or its part from `start` to `end`, seconds from its first picture; the target appears only when
    it is whole.

    Raises DataError for a source that cannot be read or of which more than MAX_MISSING is damaged.
    """
    index, target = frame_index(source), Path(target)
    mark = _origin(index.path, start, end)
    part = target.with_name(f"{target.name}.part")
    try:
        _write(index, part, encoding, (start, end), mark)
        os.replace(part, target)
    except (av.error.FFmpegError, OSError) as error:
        kind = DiskError if error.errno in ending.FULL else DataError  # which the next video would meet as well
        raise kind(f"{index.path}: cannot be re-encoded to {target} ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _write(index: FrameIndex, path: Path, encoding: Encoding, part: tuple[float, float], mark: str) -> None:
    rate, shown = _plan(index, encoding, *part)
    gop = max(1, round(GOP_SECONDS * rate))
    # The same bytes every time: x264's output depends on the number of threads and, of small pictures, its macroblock
    # tree on what memory held before. B-frames that nothing refers to: decoding may skip them.
    x264 = f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:b-pyramid=none:threads=1:mbtree=0"
    late = index.start if part == (0.0, math.inf) else 0.0
    # An edit list says when the pictures start, in ticks of the movie: of a millisecond if nothing else is said.
    movie = {"output_ts_offset": f"{late:f}", "movie_timescale": "90000"} if late else {}
    with av.open(os.fspath(path), "w", format="mp4", options=movie) as container:
        container.metadata["comment"] = mark
        options = {"preset": "fast", "crf": str(encoding.crf), "x264-params": x264}
        stream = container.add_stream("libx264", rate=rate, options=options)
        for number, picture in enumerate(_pictures(index, shown, encoding.short_side)):
            if number == 0:
                stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, picture.format.name
                for name in COLOURS:
                    setattr(stream.codec_context, name, getattr(picture, name))
            picture.pts, picture.time_base = number, 1 / rate
            picture.pict_type = PictureType.NONE  # what it was in the source must not make it a key frame
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _plan(index: FrameIndex, encoding: Encoding, start: float, end: float) -> tuple[Fraction, np.ndarray]:
    """The new frame rate, and of every new frame the old one that it shows: int64, ascending."""
    rate = Fraction(encoding.fps or index.rate).limit_denominator(1001)
    if index.constant_rate and abs(rate / index.rate - 1) < 1e-5 and (start, end) == (0.0, math.inf):
        return rate, np.arange(len(index))
    duration = index.info.duration
    if not 0 <= start < min(end, duration):
        raise DataError(f"{index.path}: has no part from {start:g} s to {end:g} s; it lasts {duration:g} s")
    count = max(1, round((min(end, duration) - start) * rate))
    places = index.seconds_to_frame(start + np.arange(count) / float(rate))
    return rate, np.clip(np.floor(places + 1e-6).astype(np.int64), 0, len(index) - 1)


def _pictures(index: FrameIndex, shown: np.ndarray, short_side: int) -> Iterator[av.VideoFrame]:
    """One picture for every entry of `shown`; where a frame is missing, the one before, else the one after."""
    scale = min(1.0, short_side / min(index.width, index.height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (index.width, index.height))
    stored = (width, height)[:: -1 if index.rotation % 180 else 1]
    reformatter, last, given, stand_ins = VideoReformatter(), None, 0, 0
    for number, frame in decode_range(index, int(shown[0]), int(shown[-1])):
        before, upto = np.searchsorted(shown, (number, number + 1))
        if upto <= given:
            continue
        # The old JPEG formats' full range stays; everything else becomes what decoders are fastest at.
        pixels = "yuvj420p" if frame.format.name.startswith("yuvj") else "yuv420p"
        scaled = reformatter.reformat(frame, *stored, pixels, interpolation=Interpolation.AREA, threads=1)
        picture = _upright(scaled, index)
        stand_ins += before - given
        yield from itertools.repeat(last or picture, before - given)
        yield from itertools.repeat(picture, upto - before)
        last, given = picture, upto
    stand_ins += len(shown) - given
    if stand_ins > MAX_MISSING * len(shown):
        raise DataError(
            f"{index.path}: {stand_ins} of {len(shown)} frames cannot be decoded, at most {MAX_MISSING:.0%} may be"
        )
    yield from itertools.repeat(last, len(shown) - given)


def _upright(picture: av.VideoFrame, index: FrameIndex) -> av.VideoFrame:
    """As a player shows it, each plane by itself."""
    if index.rotation == 0 and not index.mirrored:
        return picture
    planes = []
    for plane in picture.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        planes.append(index.upright(rows).ravel())
    width = picture.height if index.rotation % 180 else picture.width
    turned = av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(-1, width), picture.format.name)
    for name in COLOURS:
        setattr(turned, name, getattr(picture, name))
    return turned


def reencode_folder(
    files: Mapping[str, Path | tuple[Path, float, float]],
    folder: Path,
    encoding: Encoding,
    processes: int | None = None,
) -> dict[str, DataError]:
    """Re-encodes files (by name) into FOLDER/NAME.mp4, those that are not there yet; the errors of those that failed.

    A file may be given with the seconds of a part of it. What is in the folder already is whole, and stays unless its
    original, or the part, is another one by now; a line names those that are made anew.
    Raises DataError where the folder holds videos of another encoding, or the originals.
    """
    parts = {name: file if isinstance(file, tuple) else (file, 0.0, math.inf) for name, file in files.items()}
    targets = {name: folder / f"{name}.mp4" for name in parts}
    if any(
        folder.resolve() == p.parent.resolve() or targets[n].resolve() == p.resolve() for n, (p, *_) in parts.items()
    ):
        raise DataError(f"{folder}: holds the originals; give another folder to write re-encoded videos to")
    for name in parts:
        if not name or PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise DataError(f"video {name!r}: its file would lie outside {folder}")
    keep_settings(folder / SETTINGS, dataclasses.asdict(encoding))
    jobs = {name: (path, targets[name], encoding, *part) for name, (path, *part) in parts.items()}
    there = {name for name, job in jobs.items() if job[1].exists()}
    changed = [name for name in sorted(there) if _made_of(targets[name]) != _origin(*parts[name])]
    for name in changed:
        targets[name].unlink()  # it must not stand in for one that cannot be made
    if changed:
        print(f"{len(changed)} videos in {folder} are made anew, since their originals changed: {some_of(changed)}")
    jobs = {name: job for name, job in jobs.items() if name not in there or name in changed}
    for parent in {target.parent for _, target, *_ in jobs.values()}:
        parent.mkdir(parents=True, exist_ok=True)
    return run_all(reencode, jobs, "re-encoding videos", processes)[1]


def _origin(source: str | os.PathLike[str], start: float, end: float) -> str:
    """The mark of a part of a file, the comment of what is made of it; " " for one that cannot be read."""
    try:
        return f"{mark_of(source)} {start:g} {end:g}"
    except OSError:
        return " "


def _made_of(target: Path) -> str:
    """The mark that a re-encoded file carries; "" for one that carries none, or cannot be read."""
    try:
        with av.open(os.fspath(target)) as container:
            return container.metadata.get("comment", "")
    except (av.error.FFmpegError, OSError):
        return ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line's options of an encoding."""
    parser.add_argument("--short_side", type=int, default=Encoding.short_side, help="pixels (default: %(default)s)")
    parser.add_argument("--fps", type=float, help="frames a second (default: the recipe's, else each file's own)")
    parser.add_argument("--crf", type=int, default=Encoding.crf, help="x264's quality (default: %(default)s)")
    parser.add_argument("--processes", type=int, help="that encode (default: one a core)")


def encoding_from(options: argparse.Namespace, fps: float = 0.0) -> Encoding:
    """The encoding that the options ask for; `fps` is the recipe's. Raises DataError for one that cannot be."""
    encoding = Encoding(options.short_side, fps if options.fps is None else options.fps, options.crf)
    if not (encoding.short_side >= 16 and 0 <= encoding.fps <= 1000 and 0 <= encoding.crf <= 51):
        raise DataError(f"{encoding}: --short_side must be at least 16, --fps 0 to 1000, --crf 0 to 51")
    return encoding


def encoding_of(folder: Path) -> Encoding | None:
    """How the videos of a folder were re-encoded by this module; None for any other folder."""
    try:
        return Encoding(**json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder / SETTINGS}: cannot be read ({error})") from error
