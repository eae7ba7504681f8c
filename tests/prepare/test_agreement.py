"""Annotations held against files: what disagrees is said, and no wrong duration or rate bends the time axis."""

import json

import numpy as np
import pytest

from tadjax.data.annotations import load_annotations
from tadjax.data.dataset import Dataset
from tadjax.data.records import open_sources
from tadjax.prepare.__main__ import main
from tests.config.test_checks import load
from tests.video.numbered_videos import make, number_of

JUMP = [{"segment": [2.5, 3.5], "label": "jump"}]
TRUE = "taken to be true where annotations and files disagree: the seconds of the annotated segments"


@pytest.fixture
def prepare(tmp_path, capsys):
    """Videos of 40 frames, 4 s, one for each entry: (status, database, printed, folder of the output)."""

    def run(entries: dict, *flags):
        (tmp_path / "videos").mkdir(exist_ok=True)
        for name in entries:
            if not (tmp_path / "videos" / f"{name}.mp4").exists():
                make(tmp_path / "videos" / f"{name}.mp4", 40, rate=10, size=(64, 48))
        (tmp_path / "a.json").write_text(json.dumps({"database": entries}))
        given = ["--videos", str(tmp_path / "videos"), "--annotations", str(tmp_path / "a.json")]
        status = main(["custom", *given, "--output", str(tmp_path / "out"), *flags])
        printed = capsys.readouterr()
        file = tmp_path / "out" / "annotations.json"
        database = json.loads(file.read_text())["database"] if status < 2 else {}
        return status, database, printed.out + printed.err, tmp_path / "out"

    return run


def entry(subset="training", annotations=JUMP, **known):
    return {"subset": subset, "duration": 4.0, "annotations": annotations, **known}


def frames_of(output, subset="training") -> list[float]:
    """The frames that the first annotated segment of a subset is learnt from."""
    config = load(output / "config.py")
    config.data.train_subset = subset
    dataset = Dataset(config)
    (source, *_) = dataset.training_set().sources
    return source.timeline.to_frames(dataset.training.videos[source.index].segments[0]).tolist()


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        ({"duration": 6.0, "frame": 40}, "durations longer than the pictures, which are all there: of the container"),
        ({"duration": 8.0, "frame": 80}, "durations that disagree: the file is cut differently from the annotated one"),
        ({"duration": 8.0}, "durations that disagree: the file is cut differently from the annotated one"),
        ({"duration": 4000.0}, "durations that disagree: the file is cut differently from the annotated one"),
        ({"frame": 120}, "frame counts that disagree: a file of another rate counts its own frames"),
        ({"fps": 25.0}, "frame rates that disagree: a file of another rate counts its own frames"),
        ({"frame": 100, "fps": 25.0}, "frame counts that disagree: a file of another rate counts its own frames"),
    ],
)
def test_what_disagrees_is_said_and_segments_keep_their_seconds(prepare, known, kind):
    """2.5 to 3.5 s of a file at 10 frames a second are its frames 25 to 35, whatever is annotated beside them."""
    status, database, printed, output = prepare({"a": entry(**known), "b": entry("validation")})
    assert status == 1 and f"1 x {kind}" in printed and TRUE in printed
    assert "annotations and videos agree" not in printed
    assert {name: database["a"].get(name) for name in ("duration", "frame", "fps")} == {
        "duration": 4.0,
        "frame": 40,
        "fps": None,
    }
    assert frames_of(output) == [25, 35]


def test_what_agrees_is_not_complained_of(prepare):
    """Durations are rounded, and 29.97 is called 30."""
    status, _, printed, output = prepare({"a": entry(duration=4.4, frame=41), "b": entry("validation", fps=10.05)})
    assert status == 0 and "annotations and videos agree" in printed and TRUE not in printed
    assert frames_of(output) == [25, 35], "41 frames in 4.4 s would be 9.3 a second"


def test_a_segment_of_another_cut_is_dropped_by_name(prepare):
    late = [{"segment": [4.5, 5.5], "label": "jump"}]
    status, _, printed, _ = prepare(
        {"a": entry(annotations=late, duration=8.0), "b": entry(), "c": entry("validation")}
    )
    assert status == 1 and "1 x lies outside the video: dropped" in printed and "video 'a', annotation 0" in printed
    assert "training:\n    2 videos, 1 instances" in printed


def test_re_encoded_at_another_rate_is_no_disagreement(prepare, tmp_path):
    flags = ["--reencode", str(tmp_path / "small"), "--fps", "20", "--processes", "0"]
    status, database, printed, output = prepare({"a": entry(frame=40), "b": entry("validation", fps=10)}, *flags)
    assert status == 0, printed
    assert database["a"]["frame"] == 80 and frames_of(output) == [50, 70]


def test_a_replaced_original_is_re_encoded_and_compared_anew(prepare, tmp_path):
    flags = ["--reencode", str(tmp_path / "small"), "--processes", "0"]
    assert prepare({"a": entry(), "b": entry("validation")}, *flags)[0] == 0
    make(tmp_path / "videos" / "a.mp4", 80, rate=10, size=(64, 48), first=100)
    status, database, printed, _ = prepare({"a": entry(), "b": entry("validation")}, *flags)
    assert status == 1 and "are made anew, since their originals changed: a" in printed
    assert "lasts 8.00 s, annotated are 4.00 s" in printed and database["a"]["duration"] == 8.0
    videos = load_annotations(tmp_path / "out" / "annotations.json", "training").videos
    config = load(tmp_path / "out" / "config.py")
    (source,) = open_sources(videos, [f"{config.data.videos}/a.mp4"], training_sampling(config))
    assert number_of(source.read_frames(np.array([0]), None, short_side=48).frames[0]) == 100


def training_sampling(config):
    return Dataset(config).training_set().sampling


def test_a_subset_without_an_instance_is_not_evaluated_on(prepare):
    none = {"c": entry("testing", []), "d": {"subset": "testing", "duration": 4.0}}
    status, _, printed, output = prepare({"a": entry(), "b": entry(), **none})
    config = load(output / "config.py")
    assert (config.data.train_subset, config.data.eval_subset) == ("training", "training")
    assert "subsets without a single instance, neither trained nor evaluated on: 'testing'" in printed
    assert "there is no other subset with instances than 'training'" in printed
    _, _, _, output = prepare({"a": entry(), "b": entry("held_out"), **none})
    assert load(output / "config.py").data.eval_subset == "held_out"
    run = [{"segment": [1.0, 2.0], "label": "run"}]
    _, _, printed, _ = prepare({"a": entry(), "b": entry("held_out", run), **none})
    assert "classes without an instance to train on: 'run'" in printed
    assert "moves it by about 100 points; it says nothing of 'jump'" in printed
    status, _, printed, _ = prepare({"a": entry("train", []), "b": entry("other"), "c": entry("val")})
    assert "'train'" in printed and status == 1, "its video is not used in training"
    config = load(output / "config.py")
    assert (config.data.train_subset, config.data.eval_subset) == ("other", "val")


def test_without_subsets_a_share_is_held_out(prepare):
    """Of nine videos three, one of them with the class that only two have."""
    entries = {f"v{i}": entry() for i in range(9)}
    for name in ("v2", "v5"):
        entries[name] = entry(annotations=[{"segment": [1.0, 2.0], "label": "run"}])
    for each in entries.values():
        del each["subset"]
    status, database, printed, _ = prepare(entries)
    held = [name for name in database if database[name]["subset"] == "validation"]
    assert status == 0 and len(held) == 3
    assert len({"v2", "v5"} & set(held)) == 1
    assert "mAP will be that of 3 videos with 3 instances of 2 of 2 classes" in printed
    assert "moves it by about 33 points" in printed


def test_an_edited_config_is_kept_and_the_new_one_written_beside_it(prepare):
    entries = {"a": entry(), "b": entry("validation")}
    _, _, _, output = prepare(entries)
    _, _, printed, _ = prepare({**entries, "c": entry()}, "--backbone", "vits")
    config = output / "config.py"
    assert "was edited" not in printed and "3 videos" in config.read_text(), "it may be written over"
    mine = config.read_text().replace("config.data.name = 'out'", "config.data.name = 'my own'")
    config.write_text(mine)
    _, _, printed, _ = prepare(entries, "--backbone", "vitl")
    assert config.read_text() == mine and load(config).data.name == "my own"
    assert f"{config} was edited, and is kept; {output / 'config.new.py'} is what would be written now" in printed
    assert load(output / "config.new.py").backbone.size == "l"
    assert f"written: {output / 'annotations.json'}, {output / 'classes.txt'}; train with" in printed

    (output / "config.new.py").replace(config)  # taken over: it is ours again
    _, _, printed, _ = prepare(entries, "--backbone", "vits")
    assert "was edited" not in printed and load(config).backbone.size == "s"
    (output / "classes.txt").write_text("run\njump\n")
    _, _, printed, _ = prepare(entries)
    assert (output / "classes.txt").read_text() == "run\njump\n" and "classes.new.txt is what" in printed
    config.write_text("mine")
    (output / "prepared.json").unlink()
    _, _, printed, _ = prepare(entries)
    assert config.read_text() == "mine", "of a folder without a record everything may have been edited"
