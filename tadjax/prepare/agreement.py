"""Where annotations and video files disagree, by kind."""

import dataclasses
from pathlib import Path

from tadjax.data.annotations import FPS_TOLERANCE, Annotations, Video
from tadjax.errors import DataError
from tadjax.video.folder import probe_all, video_files
from tadjax.video.frames import VideoInfo

NAMED = 5  # examples of each kind of problem
SECONDS_OFF, SHARE_OFF = 1.0, 0.02  # annotated durations are rounded: beyond both, it is another cut of the video


@dataclasses.dataclass
class Findings:
    """Problems by kind, each a list of lines; and what is known of the readable files."""

    problems: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    infos: dict[str, VideoInfo] = dataclasses.field(default_factory=dict)
    blocked: list[str] = dataclasses.field(default_factory=list)  # annotated videos that cannot be used

    def add(self, kind: str, line: str) -> None:
        self.problems.setdefault(kind, []).append(line)

    def report(self) -> list[str]:
        lines = []
        for kind, found in self.problems.items():
            lines.append(f"{len(found)} x {kind}")
            lines += [f"    {line}" for line in found[:NAMED]]
            lines += [f"    ... and {len(found) - NAMED} more"] if len(found) > NAMED else []
        return lines


def compare(findings: Findings, path: Path, video: Video, info: VideoInfo, *, same_frames: bool = True) -> bool:
    """Adds where a video's duration, frame count or frame rate is not its file's; whether they agree.

    same_frames: the file is the annotated one, not re-encoded at another rate.
    """
    lasts = f"{path}: lasts {info.duration:.2f} s, annotated are {video.duration:.2f} s"
    other_count = bool(video.frames) and abs(info.frames - video.frames) > max(2, SHARE_OFF * video.frames)
    if abs(info.duration - video.duration) > max(SECONDS_OFF, SHARE_OFF * video.duration):
        if video.frames and not other_count and video.duration > info.duration:
            kind = "durations longer than the pictures, which are all there: of the container, or of its sound"
        else:
            kind = "durations that disagree: the file is cut differently from the annotated one"
        findings.add(kind, lasts)
    elif same_frames and other_count:
        line = f"{path}: holds {info.frames} frames, annotated are {video.frames}"
        findings.add("frame counts that disagree: a file of another rate counts its own frames", line)
    elif same_frames and not video.frames and video.fps and abs(info.fps / video.fps - 1) > FPS_TOLERANCE:
        line = f"{path}: has {info.fps:.4g} frames a second, annotated are {video.fps:.4g}"
        findings.add("frame rates that disagree: a file of another rate counts its own frames", line)
    else:
        return True
    return False


def check_videos(annotations: Annotations, folder: Path, prefix: str = "", fps: float = 0.0) -> Findings:
    """Compares annotated videos with the files of a folder, each of which is demuxed once."""
    findings = Findings()
    files = video_files(folder)
    wanted = {prefix + video.name: video for video in annotations.videos}
    for stem in sorted(set(files) - set(wanted)):
        findings.add("video files without annotations: not used", str(files[stem]))
    for name, video in wanted.items():
        if name not in files:
            findings.add("annotated videos without a file", video.name)
            findings.blocked.append(video.name)
    there = {name: files[name] for name in wanted if name in files}
    for name, result in probe_all(there).items():
        video = wanted[name]
        if isinstance(result, DataError):
            findings.add("files that cannot be read", str(result))
            findings.blocked.append(video.name)
            continue
        findings.infos[video.name] = result
        compare(findings, there[name], video, result)
        if fps and abs(result.fps - fps) > 0.1:
            findings.add(f"files that are not at {fps:g} frames a second", f"{there[name]}: {result.fps:.3f}")
    for line in annotations.summary():
        findings.add("kinds of annotations out of order", line)
    return findings
