"""CSV and subtitles, letter by letter."""

import numpy as np

from tadjax.detections.decode import Detections
from tadjax.report.exports import clock, to_csv, to_srt, to_vtt

CLASSES = ("jump", 'say "hi", <b>&\nwave')
FOUND = Detections(
    np.array([[3661.5, 3662.25], [0.0004, 1.9996], [5.0, 5.0]]), np.array([0.9, 0.45678, 0.1]), np.array([0, 1, 0])
)
NONE = Detections.concatenate([])


def test_csv_quotes_what_needs_it():
    assert to_csv("a,b", FOUND, CLASSES) == (
        "video,start,end,label,score\n"
        '"a,b",3661.500,3662.250,jump,0.9000\n'
        '"a,b",0.000,2.000,"say ""hi"", <b>&\nwave",0.4568\n'
        '"a,b",5.000,5.000,jump,0.1000\n'
    )


def test_srt_is_in_order_of_time_and_every_cue_lasts():
    assert to_srt(FOUND, CLASSES) == (
        '1\n00:00:00,000 --> 00:00:02,000\nsay "hi", <b>& wave 0.46\n\n'
        "2\n00:00:05,000 --> 00:00:05,001\njump 0.10\n\n"
        "3\n01:01:01,500 --> 01:01:02,250\njump 0.90\n"
    )


def test_vtt_escapes_markup():
    assert to_vtt(FOUND, CLASSES) == (
        "WEBVTT\n\n"
        '00:00:00.000 --> 00:00:02.000\nsay "hi", &lt;b&gt;&amp; wave 0.46\n\n'
        "00:00:05.000 --> 00:00:05.001\njump 0.10\n\n"
        "01:01:01.500 --> 01:01:02.250\njump 0.90\n"
    )


def test_no_detections_are_valid_files():
    assert to_csv("v", NONE, CLASSES) == "video,start,end,label,score\n"
    assert to_srt(NONE, CLASSES) == ""
    assert to_vtt(NONE, CLASSES) == "WEBVTT\n"


def test_clock_rounds_before_it_splits():
    assert [clock(s) for s in (0, 7.34, 59.96, 725, 3723.4)] == ["0:00.0", "0:07.3", "1:00.0", "12:05.0", "1:02:03.4"]
