"""Tables as spreadsheets leave them: read right, or refused with the line and what mends it."""

import pytest

from tadjax.errors import DataError
from tadjax.prepare.formats import Reading, read_instances

HEAD = "video,start,end,label\n"
ROW = ("a.mp4", 0.5, 72.5, "jump")


def read(tmp_path, content: str | bytes, **reading):
    path = tmp_path / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [instance[:4] for instance in read_instances(path, Reading(**reading))]


@pytest.mark.parametrize(
    "content",
    [
        HEAD + "a.mp4,0.5,72.5,jump\n,,,\n , ,,\n\n",  # a spreadsheet's rows that were emptied
        ",,,\n" + HEAD + "a.mp4,0.5,72.5,jump\n",
        HEAD + "a.mp4,0.5,72.5,jump,,\n",
        ("\ufeff" + HEAD + "a.mp4,0.5,72.5,jump\n").replace("\n", "\r\n"),
        HEAD + "a.mp4,0:00.5,1:12.5,jump\n",
        HEAD + "a.mp4,00:00:00.500,00:01:12.500,jump\n",
        "video;start;end;label\na.mp4;0,5;72,5;jump\n",
        "video;start;end;label\na.mp4;0,5;0:01:12,5;jump\n",
        "video\tstart\tend\tlabel\na.mp4\t0,5\t72,5\tjump\n",
        "sep=;\nvideo;start;end;label\na.mp4;0,5;72,5;jump\n",
        "label,end_ms,start [ms],video\njump,72500,500,a.mp4\n",
        "Video,Start (s),End_seconds,Label\na.mp4,.5,7.25e1,jump\n",
        HEAD + 'a.mp4,0.5,72.5,"  jump\n"\n',
        HEAD + "a.mp4,0.5,72.5,\u200bjump\ufeff\n",
        (HEAD + "a.mp4,0.5,72.5,jump\n").encode("utf-16"),
        "video\tstart\tend\tlabel\r\na.mp4\t0,5\t72,5\tjump\r\n".encode("utf-16"),
        (HEAD + "a.mp4,0.5,72.5,jump\n").encode("utf-8-sig"),
    ],
)
def test_read_as_it_is_meant(tmp_path, content):
    assert read(tmp_path, content) == [ROW]


def test_labels_are_one_class_however_they_are_typed(tmp_path):
    rows = ["Stand  up ", '"Stand\r\nup"', "Stand\u00a0up", "U\u0308ben", "Üben", "Ambiguous"]
    content = HEAD + "".join(f"a.mp4,{i},{i + 1},{label}\n" for i, label in enumerate(rows))
    assert [row[3] for row in read(tmp_path, content)] == ["Stand up"] * 3 + ["Üben"] * 2 + ["Ambiguous"]


def test_other_encodings_are_named_by_line_and_read_where_they_are_given(tmp_path):
    content = (HEAD + "a.mp4,0,1,x\na.mp4,1,2,Übung\n").encode("cp1252")
    with pytest.raises(DataError, match=r"a.csv, line 3: not UTF-8 text .*; save it as UTF-8 .*cp1252"):
        read(tmp_path, content)
    assert read(tmp_path, content, encoding="cp1252")[1][3] == "Übung"
    with pytest.raises(DataError, match="line 1: holds zero bytes"):
        read(tmp_path, HEAD.encode("utf-16")[2:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD + "a.mp4,0,5,1,5,jump\n", "a.csv, line 2: has 6 columns, the first line 4; decimal commas"),
        (HEAD + 'a.mp4,"0,5","1,5",jump\n', "line 2: start '0,5' and end '1,5' must be seconds"),
        (HEAD + "a.mp4,00:00:01:12,00:00:02:03,jump\n", "with frames in them (0:00:12:15) they say nothing"),
        (HEAD + "a.mp4,0:75,2:00,jump\n", "line 2: start '0:75' and end '2:00' must be seconds"),
        (HEAD + "a.mp4,1_0,2_0,jump\n", "line 2: start '1_0'"),
        (HEAD + "a.mp4,\u0661,\u0662,jump\n", "line 2: start"),
        (HEAD + "a.mp4,nan,2,jump\n", "line 2: start 'nan'"),
        (HEAD + "a.mp4,1e999,2e999,jump\n", "must be seconds"),
        (HEAD + "a.mp4,1.5 s,2 s,jump\n", "line 2: start '1.5 s'"),
        (
            "video;start;end;label\na;1,234;2,5;x\na;1.5;2;x\n",
            "line 3: start '1.5' and end '2': some times hold commas",
        ),
        (
            "video,start_frame,end_frame,label\na,1,2,x\n",
            "line 1: the column 'start_frame' counts frames; give seconds",
        ),
        ("video,frame start,frame end,label\na,1,2,x\n", "line 1: the column 'frame start' counts frames"),
        ("video,start (frames),end,label\na,1,2,x\n", "line 1: the column 'start (frames)' counts frames"),
        ("video,video,start,end,label\n", "line 1: the first line names two columns 'video'"),
        (HEAD + "a.mp4,1,2,ju\x07mp\n", "line 2: the label 'ju\\x07mp' holds control characters"),
        (HEAD + "a.mp4,1,2,\u200b\n", "line 2: the label is empty"),
    ],
)
def test_refused_with_line_and_cure(tmp_path, content, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, content)
    assert message in str(error.value)


def test_public_reports_of_times_and_columns(tmp_path):
    """AudiAnnotate 216: whole numbers and clocks in one table; 122: markers of an editor, 01:09:30;
    nmaahcmm 111: two columns "filename"; lossless-cut's export: an empty start."""
    rows = "a.mp4,1,2,x\na.mp4,0:01,0:02,x\na.mp4,01:09:30,1:09:31.5,x\n"
    assert [row[1:3] for row in read(tmp_path, HEAD + rows)] == [(1, 2), (1, 2), (4170, 4171.5)]
    with pytest.raises(DataError, match="line 2: start '' and end '56.9' must be seconds"):
        read(tmp_path, HEAD + "a.mp4,,56.9,first\n")
