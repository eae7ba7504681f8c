"""The extensions that mark a file as a video: what FFmpeg, by which PyAV decodes, knows as containers of pictures."""

import os

EXTENSIONS = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".mk3d", ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv", ".f4v"),
    *(".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".m2p", ".mpv", ".vob", ".mod", ".tod", ".dav", ".ismv", ".psp", ".mj2"),
    *(".ts", ".mts", ".m2ts", ".m2t", ".tp", ".trp", ".3gp", ".3g2", ".3gpp", ".ogv", ".ogm", ".mxf", ".gxf"),
    *(".dv", ".dif", ".rm", ".rmvb", ".wtv", ".nut", ".ivf", ".amv", ".y4m"),
    *(".h264", ".264", ".h265", ".hevc", ".265", ".mjpg", ".mjpeg"),
)
SOME = ", ".join((*EXTENSIONS[:3], ".mkv", ".webm", ".avi", ".wmv", ".mpg", ".mts", ".3gp", ".mxf")) + " ..."


def without_extension(name: str) -> str:
    """A name without the extension of a video, if it has one: "b.MTS" and "b" give "b", "a.b" stays."""
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in EXTENSIONS else name
