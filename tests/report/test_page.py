"""The page itself as text, and in a headless Chromium where one is installed."""

import json
import re

import av
import numpy as np
import pytest

from tadjax.detections.decode import Detections
from tadjax.report.page import relative_url, write_page
from tadjax.video.frame_index import frame_index
from tests.report import browser as browsers

EVIL = "</script><script>document.title='hacked'</script><!-- & \"'$x ${y}"
CLASSES = ("jump", EVIL, "wave")
TRUTH = Detections(np.array([[1.0, 3.0]]), np.ones(1), np.array([0]))
FOUND = Detections(
    np.array([[1.0, 3.0], [4.0, 5.0], [2.0, 6.5], [7.0, 8.0]]), np.array([0.2, 0.9, 0.3, 0.8]), np.array([0, 1, 0, 2])
)
NAME = "a <b> & 100% #1?.mp4"


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a video of 10 s, in a folder beside the video's; both have names that need escaping."""
    root = tmp_path_factory.mktemp("page")
    folder = root / "out #1"
    folder.mkdir()
    with av.open(str(root / NAME), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(100):
            picture = np.full((48, 64, 3), 2 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    write_page(folder / "report.html", root / NAME, 10.0, 10.0, TRUTH, FOUND, CLASSES)
    return folder / "report.html"


def test_data_come_back_best_first(page):
    data = data_of(page.read_text())
    assert data["detections"] == [[4.0, 5.0, 1, 0.9], [7.0, 8.0, 2, 0.8], [2.0, 6.5, 0, 0.3], [1.0, 3.0, 0, 0.2]]
    assert data["truth"] == [[1.0, 3.0, 0]]
    assert data["classes"] == list(CLASSES)
    assert (data["video"], data["duration"], data["fps"]) == (NAME, 10.0, 10.0)


def test_nothing_given_becomes_markup(page):
    text = page.read_text()
    assert text.count("</script>") == 2 and "<!--" not in text
    assert "<title>a &lt;b&gt; &amp; 100% #1?.mp4</title>" in text


def test_the_page_asks_for_nothing_over_the_network(page):
    assert "http" not in re.sub(r'http-equiv="Content-Security-Policy"', "", page.read_text())
    assert "default-src 'none'" in page.read_text()


def test_the_video_is_referred_to_from_the_page(tmp_path):
    assert relative_url(tmp_path / "a" / "x.mp4", tmp_path / "b" / "c") == "../../a/x.mp4"
    assert relative_url("x #1?.mp4", ".") == "x%20%231%3F.mp4"


def test_no_detections_and_no_truth(tmp_path):
    write_page(tmp_path / "p.html", "v.mp4", 3.0, 25.0, None, Detections.concatenate([]), CLASSES)
    data = data_of((tmp_path / "p.html").read_text())
    assert data["detections"] == [] and data["truth"] is None


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if browsers.missing():
        pytest.skip(f"report page in a browser: {browsers.missing()}")
    with browsers.Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def opened(browser, page):
    browser.open(page.as_uri())
    browser.wait(lambda: browser.run("return video.readyState") >= 2, "the video to load")
    return browser


def bars(browser) -> int:
    return browser.run("return [...document.querySelectorAll('.detection')].filter(e => e.offsetParent).length")


def slide(browser, value: float) -> None:
    browser.run("threshold.value = arguments[0]; threshold.dispatchEvent(new Event('input'))", value)


def test_the_page_loads_without_an_error(opened):
    assert opened.problems() == []
    assert opened.run("return [video.duration, video.videoWidth, video.error]") == [10, 64, None]
    assert opened.run("return document.title") == NAME
    names = opened.run("return [...document.querySelectorAll('#names span:last-child')].map(e => e.textContent)")
    assert names == list(CLASSES)


def test_the_slider_hides_detections(opened):
    assert bars(opened) == 2  # it starts at half of the best score
    for threshold, shown in ((0, 4), (0.25, 3), (0.85, 1), (0.9, 1), (0.901, 0)):
        slide(opened, threshold)
        assert bars(opened) == shown
        assert opened.run("return by('count').textContent") == f"{shown} of 4 detections"
        assert opened.run("return by('list').children.length") == shown


def test_a_click_on_a_detection_seeks_the_video(opened):
    opened.click(".detection[aria-label^=wave]")
    opened.wait(lambda: not opened.run("return video.seeking"), "the video to seek")
    assert opened.run("return video.currentTime") == 7.0
    assert opened.run("return by('playhead').style.left") == "70%"
    assert "wave 0.80" in opened.run("return by('now').textContent")
    opened.click("#list li:first-child button")  # by time: the one from 4 s on
    assert opened.run("return video.currentTime") == 4.0


def test_a_video_that_was_cut_out_of_another_is_sought_by_its_own_clock(browser, page, tmp_path):
    """Its first frame comes at 2 s of the container's time, which the browser shows, and which detections are on."""
    late = tmp_path / "late.mkv"
    with av.open(str(page.parents[1] / NAME)) as source, av.open(str(late), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                shift = round(2 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                container.mux(packet)
    assert frame_index(late).start == 2.0
    found = Detections(FOUND.segments + 2, FOUND.scores, FOUND.labels)
    write_page(tmp_path / "p.html", late, 12.0, 10.0, TRUTH, found, CLASSES)
    browser.open((tmp_path / "p.html").as_uri())
    browser.wait(lambda: browser.run("return video.readyState") >= 2, "the video to load")
    browser.run("video.requestVideoFrameCallback((now, frame) => { window.shown_at = frame.mediaTime; })")
    browser.click(".detection[aria-label^=wave]")
    browser.wait(lambda: browser.run("return window.shown_at") is not None, "the video to seek")
    assert browser.run("return [window.shown_at, video.currentTime]") == [9.0, 9.0]
    assert browser.run("return by('playhead').style.left") == "75%"
    assert "wave 0.80" in browser.run("return by('now').textContent")


def test_bars_stand_at_their_seconds(opened):
    left, width = opened.run(
        "const bar = document.querySelector('.truth').getBoundingClientRect(), box = track.getBoundingClientRect();"
        "return [(bar.left - box.left) / box.width, bar.width / box.width]"
    )
    assert (left, width) == (pytest.approx(0.1, abs=1e-3), pytest.approx(0.2, abs=1e-3))


def test_a_class_can_be_hidden(opened):
    slide(opened, 0)
    opened.click(".chip:first-child")
    assert bars(opened) == 2
    assert opened.run("return document.querySelectorAll('.lane').length") == 2
    opened.press("a")
    assert bars(opened) == 4


def test_every_key_that_the_page_documents(opened):
    def time() -> float:
        return round(opened.run("return video.currentTime"), 3)

    slide(opened, 0)
    steps = [(("n",), 1.0), (("n",), 2.0), (("p",), 1.0), (("ArrowRight",), 2.0), (("ArrowLeft",), 1.0)]
    steps += [((".",), 1.1), ((",",), 1.0), (("End",), 10.0), (("p",), 7.0), (("Home",), 0.0)]
    for keys, seconds in steps:
        opened.press(*keys)
        assert time() == seconds, keys
    opened.press("]")
    assert opened.run("return Number(threshold.value)") == 0.02
    opened.press("[")
    assert opened.run("return Number(threshold.value)") == 0
    width = opened.run("return track.clientWidth")
    opened.press("+")
    assert opened.run("return track.clientWidth") == 2 * width
    opened.press("-")
    assert opened.run("return track.clientWidth") == width
    opened.press(" ")
    opened.wait(lambda: time() > 0, "the video to play")
    opened.press(" ")
    assert opened.run("return video.paused")


def test_a_video_that_is_not_there_leaves_the_timeline_working(browser, tmp_path):
    write_page(tmp_path / "p.html", tmp_path / "gone.mp4", 10.0, 10.0, TRUTH, FOUND, CLASSES)
    browser.open((tmp_path / "p.html").as_uri())
    browser.wait(lambda: not browser.run("return by('unplayable').hidden"), "the page to notice")
    assert "cannot play gone.mp4" in browser.run("return by('reason').textContent")
    browser.click(".detection[aria-label^=wave]")
    assert browser.run("return by('playhead').style.left") == "70%"


def test_an_empty_page_says_so(browser, tmp_path):
    write_page(tmp_path / "p.html", tmp_path / "gone.mp4", 10.0, 10.0, None, Detections.concatenate([]), CLASSES)
    browser.open((tmp_path / "p.html").as_uri())
    assert browser.run("return by('lanes').textContent") == "no detections"
    assert browser.run("return by('count').textContent") == "0 of 0 detections"
