"""VIA 3: its project and both of its CSV exports give the same classes, and no attribute is mistaken for another."""

import csv
import io
import json

import pytest

from tadjax.errors import DataError
from tadjax.prepare.formats import Reading, read_instances

MENU = {"aname": "Action", "anchor_id": "FILE1_Z2_XY0", "type": 4, "options": {"0": "jump", "1": "run, fast"}}
SIDE = {"aname": "Quality", "anchor_id": "FILE1_Z2_XY0", "type": 4, "options": {"0": "good", "1": "bad"}}
ENTRIES = [("clip1.mp4", [0.5, 1.5], {"1": "0"}), ("clip2.mp4", [1, 2], {"1": "1"})]
WANTED = [("clip1.mp4", 0.5, 1.5, "jump"), ("clip2.mp4", 1.0, 2.0, "run, fast")]


def row(*cells) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(cells)
    return text.getvalue()


def export(entries, attributes=None) -> str:
    text = "# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)\n# Notes:\n"
    text += "" if attributes is None else f"# ATTRIBUTE = {json.dumps(attributes)}\n"
    text += "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata\n"
    for number, (video, times, values) in enumerate(entries):
        text += row(f"1_{number}", json.dumps([video]), 0, json.dumps(times), "[]", json.dumps(values))
    return text


def segments_export(entries) -> str:
    text = "# CSV_HEADER = metadata_id,file_list,temporal_segment_start,temporal_segment_end,metadata\n"
    for number, (video, (start, end), values) in enumerate(entries):
        text += row(f"1_{number}", json.dumps([video]), start, end, json.dumps(values))
    return text


def project(entries, attributes) -> str:
    videos = list(dict.fromkeys(video for video, _, _ in entries))
    files = {str(number): {"fid": str(number), "fname": name} for number, name in enumerate(videos)}
    return json.dumps(
        {
            "attribute": attributes,
            "file": files,
            "view": {number: {"fid_list": [number]} for number in files},
            "metadata": {
                f"m{number}": {"vid": str(videos.index(video)), "flg": 0, "z": times, "xy": [], "av": values}
                for number, (video, times, values) in enumerate(entries)
            },
        }
    )


def read(tmp_path, text, suffix=".csv", remarks=None, **reading):
    path = tmp_path / f"a{suffix}"
    path.write_text(text)
    return [instance[:4] for instance in read_instances(path, Reading(**reading), remarks)]


def spreadsheet(text: str) -> str:
    """As Excel leaves an export that was opened and saved: every line padded, lines with quotes quoted anew."""
    rows = list(csv.reader(io.StringIO(text)))
    output = io.StringIO()
    csv.writer(output).writerows(cells + [""] * (8 - len(cells)) for cells in rows)
    return output.getvalue()


def test_every_export_names_the_options(tmp_path):
    attributes = {"1": MENU}
    assert read(tmp_path, project(ENTRIES, attributes), ".json") == WANTED
    assert read(tmp_path, export(ENTRIES, attributes)) == WANTED
    assert read(tmp_path, spreadsheet(export(ENTRIES, attributes))) == WANTED
    assert read(tmp_path, "\ufeff" + export(ENTRIES, attributes).replace("\n", "\r\n")) == WANTED
    named = [
        (video, times, {"TEMPORAL-SEGMENTS": label}) for video, times, label in ((*w[:1], w[1:3], w[3]) for w in WANTED)
    ]
    assert read(tmp_path, segments_export(named)) == WANTED
    text = {"1": {**MENU, "type": 1, "options": {}}}
    typed = [("clip1.mp4", [0.5, 1.5], {"1": "jump"}), ("clip2.mp4", [1, 2], {"1": "run, fast"})]
    assert read(tmp_path, project(typed, text), ".json") == read(tmp_path, export(typed, text)) == WANTED
    assert read(tmp_path, segments_export(typed)) == WANTED
    both = [("clip1.mp4", [0.5, 1.5], {"1": "0,1"})]
    assert [label for *_, label in read(tmp_path, export(both, attributes))] == ["jump", "run, fast"], "check boxes"


def test_numbers_of_options_without_names_are_no_classes(tmp_path):
    with pytest.raises(
        DataError, match=r"a.csv, line 2: its label '0' is the number of an option, .* take VIA's project"
    ):
        read(tmp_path, segments_export(ENTRIES))
    with pytest.raises(DataError, match=r"line 5: option '7' of attribute 'Action' is none of 0, 1"):
        read(tmp_path, export([("clip1.mp4", [1, 2], {"1": "7"})], {"1": MENU}))


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_side_attributes_are_asked_about_and_never_merged(tmp_path, suffix):
    entries = [(video, times, {**values, "2": "0"}) for video, times, values in ENTRIES]
    attributes = {"1": MENU, "2": SIDE}
    text = export(entries, attributes) if suffix == ".csv" else project(entries, attributes)
    with pytest.raises(DataError) as error:
        read(tmp_path, text, suffix)
    assert "holds 2 tiers or attributes" in str(error.value) and "--attribute NAME" in str(error.value)
    assert "'Action' (2 annotations, such as 'jump', 'run, fast'); 'Quality' (2 annotations, such as 'good')" in str(
        error.value
    )
    remarks: list[str] = []
    assert read(tmp_path, text, suffix, remarks, tracks=("Action",)) == WANTED
    assert remarks == ["2 annotations of other tiers or attributes passed over: 'Quality'"]
    with pytest.raises(DataError, match="no tier or attribute is called 'Akt'; there are 'Action'"):
        read(tmp_path, text, suffix, tracks=("Akt",))
    twins = {"1": MENU, "2": {**SIDE, "aname": "Action"}}
    text = export(entries, twins) if suffix == ".csv" else project(entries, twins)
    assert read(tmp_path, text, suffix, tracks=("Action (1)",)) == WANTED


def test_what_is_no_labelled_segment_is_counted(tmp_path):
    entries = [*ENTRIES, ("clip1.mp4", [3.0], {"1": "0"}), ("clip1.mp4", [3, 4], {}), ("clip1.mp4", [4, 5], {"1": ""})]
    remarks: list[str] = []
    assert read(tmp_path, export(entries, {"1": MENU}), ".csv", remarks) == WANTED
    assert remarks == [
        "1 entries passed over: marked frames and regions, which last no time",
        "2 entries passed over: segments without a label",
    ]
    with pytest.raises(DataError, match="holds no annotated segment, only segments without a label"):
        read(tmp_path, export(entries[3:], {"1": MENU}))
