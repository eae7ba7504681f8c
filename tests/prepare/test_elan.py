"""ELAN: times, tiers and media files as ELAN itself shows them."""

import pytest

from tadjax.errors import DataError
from tadjax.prepare.formats import Reading, read_instances

MEDIA = (
    '<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/data/clip1.mp4" MIME_TYPE="video/mp4" RELATIVE_MEDIA_URL="./clip1.mp4"/>'
)


def aligned(name: str, first: str, last: str, label: str) -> str:
    return (
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="{name}" TIME_SLOT_REF1="{first}" TIME_SLOT_REF2="{last}">'
        f"<ANNOTATION_VALUE>{label}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
    )


def symbolic(name: str, parent: str, label: str, previous: str = "") -> str:
    previous = f' PREVIOUS_ANNOTATION="{previous}"' if previous else ""
    return (
        f'<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="{name}" ANNOTATION_REF="{parent}"{previous}>'
        f"<ANNOTATION_VALUE>{label}</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>"
    )


def tier(name: str, *annotations: str) -> str:
    return f'<TIER LINGUISTIC_TYPE_REF="lt" TIER_ID="{name}">{"".join(annotations)}</TIER>'


def eaf(slots: dict[str, int | None], *tiers: str, media: str = MEDIA, header: str = "") -> str:
    values = {name: "" if time is None else f' TIME_VALUE="{time}"' for name, time in slots.items()}
    order = "".join(f'<TIME_SLOT TIME_SLOT_ID="{name}"{value}/>' for name, value in values.items())
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ANNOTATION_DOCUMENT><HEADER MEDIA_FILE="" {header}>{media}</HEADER>'
        f"<TIME_ORDER>{order}</TIME_ORDER>{''.join(tiers)}</ANNOTATION_DOCUMENT>"
    )


def read(tmp_path, text: str | bytes, **reading):
    path = tmp_path / "a.eaf"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_instances(path, Reading(**reading))
    return [(instance.start, instance.end, instance.label) for instance in found]


def test_slots_without_a_time_are_spread_evenly(tmp_path):
    """pympi 39."""
    slots = {"a": 500, "b": None, "c": None, "d": 2000, "e": None, "f": 4000}
    parts = [aligned(f"x{i}", *pair, label) for i, (*pair, label) in enumerate(["abu", "bcv", "cdw", "dex", "efy"])]
    wanted = [(0.5, 1.0, "u"), (1.0, 1.5, "v"), (1.5, 2.0, "w"), (2.0, 3.0, "x"), (3.0, 4.0, "y")]
    assert read(tmp_path, eaf(slots, tier("t", *parts))) == wanted
    assert read(tmp_path, eaf(slots, tier("t", *parts[::-1]))) == wanted[::-1], "in whatever order they stand"


def test_two_subdivisions_do_not_take_each_others_time(tmp_path):
    slots = {"a": 0, "b": None, "p": None, "q": None, "z": 3000}
    first = tier("1", aligned("x0", "a", "b", "u"), aligned("x1", "b", "z", "v"))
    second = tier("2", *(aligned(f"y{i}", *pair, "w") for i, pair in enumerate(["ap", "pq", "qz"])))
    assert read(tmp_path, eaf(slots, first, second), tracks=("1",)) == [(0.0, 1.5, "u"), (1.5, 3.0, "v")]
    assert [row[:2] for row in read(tmp_path, eaf(slots, first, second), tracks=("2",))] == [(0, 1), (1, 2), (2, 3)]


def test_a_slot_that_nothing_bounds_is_refused(tmp_path):
    with pytest.raises(DataError, match="a.eaf: annotation x: has no time; align it to the video in ELAN"):
        read(tmp_path, eaf({"a": 500, "b": None}, tier("t", aligned("x", "a", "b", "u"))))
    with pytest.raises(DataError, match="time slot a: '5s' is no number of milliseconds"):
        read(tmp_path, eaf({"a": "5s"}, tier("t")))


def test_symbolic_tiers_have_the_times_of_their_parents(tmp_path):
    """pympi pull request 47: subdivisions; pympi 14: references to references; elpis 36: tiers named by speaker."""
    parent = tier("u@anna", aligned("p", "a", "b", "sentence"))
    words = tier("w@anna", symbolic("w2", "p", "two", "w1"), symbolic("w1", "p", "one"))
    glosses = tier("g@anna", symbolic("g1", "w1", "eins"), symbolic("g2", "w2", "zwei"))
    text = eaf({"a": 1000, "b": 3000}, glosses, words, parent)
    assert sorted(read(tmp_path, text, tracks=("w@anna",))) == [(1.0, 2.0, "one"), (2.0, 3.0, "two")]
    assert read(tmp_path, text, tracks=("g@*",)) == [(1.0, 2.0, "eins"), (2.0, 3.0, "zwei")]


def test_several_tiers_are_asked_about(tmp_path):
    text = eaf(
        {"a": 0, "b": 1000}, tier("left", aligned("x", "a", "b", "up")), tier("right", aligned("y", "a", "b", "up"))
    )
    with pytest.raises(DataError) as error:
        read(tmp_path, text)
    assert "holds 2 tiers or attributes" in str(error.value) and "--tier NAME" in str(error.value)
    assert "'left' (1 annotations, such as 'up'); 'right' (1 annotations, such as 'up')" in str(error.value)
    assert len(read(tmp_path, text, tracks=("left", "right"))) == 2


def test_a_tier_without_values_is_a_class_and_an_empty_value_among_others_is_none(tmp_path):
    assert read(tmp_path, eaf({"a": 0, "b": 9}, tier("jump", aligned("x", "a", "b", ""))))[0][2] == "jump"
    text = eaf({"a": 0, "b": 9}, tier("action", aligned("x", "a", "b", ""), aligned("y", "a", "b", "jump")))
    with pytest.raises(DataError, match="annotation x: the label is empty"):
        read(tmp_path, text)


def test_the_media_file_names_the_video_and_where_it_begins(tmp_path):
    """elpis 193: URL-coded names; a session with two cameras, of which the second began 2 s later."""

    def instance(media: str, there: tuple[str, ...] = ()):
        path = tmp_path / "notes_by_anna.eaf"
        path.write_text(eaf({"a": 500, "b": 1500}, tier("t", aligned("x", "a", "b", "jump")), media=media))
        reading = Reading(closeness=lambda name: int(any(one in name for one in there)))
        return read_instances(path, reading)[0][:3]

    descriptor = '<MEDIA_DESCRIPTOR MEDIA_URL="{}" MIME_TYPE="video/{}" {}/>'.format
    assert instance(MEDIA) == ("/data/clip1.mp4", 0.5, 1.5)
    for name in ("session1.mpg", "session1.MTS", "session1.wmv"):
        assert instance(descriptor(f"file:///C:/data/{name}", "*", "")) == (f"/data/{name}", 0.5, 1.5)
    assert instance(descriptor("file:///x/%C3%9Cbung%201.mp4", "mp4", ""))[0] == "/x/Übung 1.mp4"
    two = descriptor("file:///x/front.mp4", "mp4", "") + descriptor("file:///x/side.mp4", "mp4", 'TIME_ORIGIN="2000"')
    assert instance(two, ("front", "side")) == instance(two) == ("/x/front.mp4", 0.5, 1.5)
    assert instance(two, ("side",)) == ("/x/side.mp4", 2.5, 3.5)
    sound = '<MEDIA_DESCRIPTOR MEDIA_URL="file:///x/a.wav" MIME_TYPE="audio/x-wav" {}/>'.format
    assert instance(sound("") + MEDIA)[0] == "/data/clip1.mp4"
    assert instance(sound('EXTRACTED_FROM="file:///x/a.mpg"'))[0] == "/x/a.mpg"
    assert instance("")[0] == "notes_by_anna"
    with pytest.raises(DataError, match="none of its media files is a video; link the video in ELAN"):
        instance(sound(""))


def test_other_encodings_and_units(tmp_path):
    text = eaf({"a": 0, "b": 1000}, tier("t", aligned("x", "a", "b", "Übung")))
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        declared = text.replace(
            'encoding="UTF-8"', f'encoding="{encoding.removesuffix("-sig").replace("cp", "windows-")}"'
        )
        assert read(tmp_path, declared.encode(encoding)) == [(0.0, 1.0, "Übung")]
    with pytest.raises(DataError, match="its times are PAL-frames, not milliseconds; save it anew in ELAN"):
        read(tmp_path, eaf({}, tier("t"), header='TIME_UNITS="PAL-frames"'))
