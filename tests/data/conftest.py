import pytest

from tests.video.tiny_videos import open_videos, write_videos


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The tiny videos."""
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder)
    return folder


@pytest.fixture(scope="session")
def sources(folder):
    return open_videos(folder)
