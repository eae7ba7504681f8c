"""What users hand over, and what is read of each: a good file, and a reader that says what it must hold to be whole."""

import json
import math
import pathlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import save_file

from convert.files import open_checkpoint
from tadjax.config import checks as configs
from tadjax.data.annotations import AMBIGUOUS, is_ambiguous, known_names, load_annotations, read_classes, read_names
from tadjax.data.features import FORMAT, RULES, FeatureFolder, feature_folder, info_path
from tadjax.detections.fusion import load_classifier
from tadjax.detections.results import read_results
from tadjax.errors import TadjaxError
from tadjax.metrics.instances import read_ground_truth
from tadjax.prepare.formats import Reading, read_instances
from tadjax.prepare.segments import clean_label
from tadjax.video.frame_index import frame_index
from tadjax.video.frames import displayed_size, read_frames
from tadjax.video.names import Finder
from tadjax.workdir.weights import read_info
from tests.conftest import write_moving_square
from tests.convert.checkpoints import tensors, vit_shapes
from tests.faults import damage
from tests.prepare import test_elan, test_via
from tests.video.field_pictures import camcorder
from tests.video.numbered_videos import make
from tests.video.odd_files import X264, edit, join, ts_part, turned

SECONDS = 20  # that no reader may take: everything here is small


class Kind(NamedTuple):
    """A kind of file: `make(path)` writes a good one; `read(path)` reads it, asserting that it gets the whole of it."""

    name: str
    make: Callable[[pathlib.Path], None]
    read: Callable[[pathlib.Path], Any]
    named: str = ""  # what an error must hold instead of the file's name: where the reader is given a folder


def trial(kind: Kind, folder: pathlib.Path, edits: str, examples: int) -> Counter:
    """Damages a good file so many times; counts how often it was read (whole) and how often refused (by one sentence).

    edits: "bytes", or "values" of JSON. AssertionError for any other outcome.
    """
    good, path = folder / "good" / kind.name, folder / kind.name
    good.parent.mkdir(exist_ok=True, parents=True)
    kind.make(good)
    kind.make(path)  # and what lies beside it
    content, tally = good.read_bytes(), Counter()

    @settings(max_examples=examples, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damage.BYTES if edits == "bytes" else damage.VALUES)
    def one(drawn: list) -> None:
        if edits == "bytes":
            path.write_bytes(damage.damaged_bytes(content, drawn))
        else:
            tree = json.loads(content)
            for place, junk in drawn:
                tree = damage.damaged_json(tree, place, junk)
            path.write_text(json.dumps(tree))
        tally[outcome(kind, path)] += 1

    kind.read(good)
    one()
    return tally


def outcome(kind: Kind, path: pathlib.Path) -> str:
    """ "read" or "refused"; AssertionError for a refusal that does not say what is wrong where, or takes too long."""
    begin = time.monotonic()
    try:
        kind.read(path)
    except TadjaxError as error:
        text = str(error)
        assert (kind.named or path.name) in text, f"the message names no file: {text}"
        assert 20 < len(text) < 4000, text
        return "refused"
    finally:
        assert time.monotonic() - begin < SECONDS
    return "read"


# Annotations, classes, results


DATABASE = {
    f"video_test_{i:07}": {
        "subset": "training" if i < 4 else "validation",
        "duration": 30.0 + i,
        "frame": 300 + 10 * i,
        "fps": 10.0,
        "annotations": [
            {"segment": [1.0 + k, 2.5 + k], "label": ("jump", "wave", AMBIGUOUS)[(i + k) % 3]} for k in range(i)
        ],
    }
    for i in range(6)
}


def make_annotations(path: pathlib.Path) -> None:
    path.write_text(json.dumps({"version": "1", "database": DATABASE}))


def read_annotations(path: pathlib.Path) -> None:
    found = load_annotations(path, ("training", "validation"))
    raw = json.loads(path.read_text())["database"]
    chosen = {name: entry for name, entry in raw.items() if entry["subset"] in ("training", "validation")}
    assert [video.name for video in found.videos] == list(chosen)
    dropped = [defect for defect in found.warnings if defect.kind.endswith("dropped")]
    given_ = [a for n, e in chosen.items() for a in e.get("annotations", ()) if not is_ambiguous(n, a["label"])]
    assert sum(len(video.labels) for video in found.videos) + len(dropped) == len(given_)
    for video in found.videos:
        assert np.isfinite(video.segments).all() and (video.segments[:, 1] >= video.segments[:, 0]).all()
        assert math.isfinite(video.duration) and video.duration > 0


def read_truth(path: pathlib.Path) -> None:
    found = read_ground_truth(path, "training")
    raw = json.loads(path.read_text())["database"]
    assert [name for name, entry in raw.items() if entry["subset"] == "training"] == list(found.videos)
    assert np.isfinite(found.segments).all()


def make_classes(path: pathlib.Path) -> None:
    path.write_text("left\nright\nstill\n")


def read_class_list(path: pathlib.Path) -> None:
    names = read_classes(path)
    assert list(names) == [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]


def make_results(path: pathlib.Path) -> None:
    entry = [{"segment": [0.5 * k, 0.5 * k + 2], "label": "jump", "score": 1 / (k + 1)} for k in range(5)]
    path.write_text(json.dumps({"version": "1", "results": {f"video{i}": entry[:i] for i in range(5)}}))


def read_detections(path: pathlib.Path) -> None:
    found = read_results(path)
    raw = json.loads(path.read_text())["results"]
    assert {name: len(entries) for name, entries in raw.items()} == {n: len(d) for n, d in found.videos.items()}
    for name, entries in raw.items():
        assert all(not isinstance(entry["score"], (str, bool)) for entry in entries), entries
        assert all(isinstance(entry["segment"], list) for entry in entries), entries
        assert np.isfinite(found.videos[name].segments).all() and np.isfinite(found.videos[name].scores).all()


def make_classifier(path: pathlib.Path) -> None:
    path.write_text(json.dumps({"class": ["jump", "wave"], "results": {f"video{i}": [0.25, 0.75] for i in range(4)}}))


def read_classifier(path: pathlib.Path) -> None:
    found = load_classifier(path, "cuhk")
    assert all(isinstance(name, str) for name in found.classes)
    assert all(np.isfinite(found.of_video(name)).all() for name in json.loads(path.read_text())["results"])


# What annotation tools write


def make_table(path: pathlib.Path) -> None:
    rows = [f"cam{i % 2}/clip{i}.mp4;{i},5;0:0{i + 2};wave {i % 3}" for i in range(6)]
    path.write_text("\n".join(["video;start;end;label", *rows, ";;;"]), encoding="utf-8-sig")


def make_via_csv(path: pathlib.Path) -> None:
    path.write_text(test_via.export(test_via.ENTRIES, {"1": test_via.MENU}))


def make_via_segments(path: pathlib.Path) -> None:
    path.write_text(test_via.segments_export([("clip1.mp4", [1, 2.5], {"TEMPORAL-SEGMENTS": "jump"})] * 3))


def make_via_project(path: pathlib.Path) -> None:
    path.write_text(test_via.project(test_via.ENTRIES, {"1": test_via.MENU}))


def make_eaf(path: pathlib.Path) -> None:
    slots = {"a": 500, "b": None, "c": 2500, "d": None, "e": 4000}
    parts = [test_elan.aligned(f"x{i}", *pair, "jump") for i, pair in enumerate(["ab", "bc", "cd", "de"])]
    words = [test_elan.symbolic("y0", "x1", "up"), test_elan.symbolic("y1", "x1", "down", "y0")]
    path.write_text(test_elan.eaf(slots, test_elan.tier("t", *parts), test_elan.tier("w", *words)))


def read_tool(path: pathlib.Path) -> None:
    """Every tier and attribute; each instance is one that training can use, of a name that leads nowhere else."""
    for instance in read_instances(path, Reading(tracks=("*",))):
        assert math.isfinite(instance.start) and instance.start < instance.end < math.inf
        assert instance.label == clean_label(instance.label) and "\n" not in instance.label
        assert instance.video and ".." not in instance.video.split("/")
        Finder({"clip1.mp4": path, "cam0/clip2.mp4": path}, path.parent).closeness(instance.video)


def make_names(path: pathlib.Path) -> None:
    path.write_text("clip1\r\n clip2 \r\nclip3.mp4\r\n", encoding="utf-8-sig")


def read_blocked(path: pathlib.Path) -> None:
    names = read_names(path)
    assert all(name == name.strip() for name in names)
    found, unknown = known_names(names, ["clip1", "clip2"])
    assert found <= {"clip1", "clip2"} and set(unknown) <= names


# Configs


def make_config(path: pathlib.Path) -> None:
    from configs import thumos_vitg

    configs.save(thumos_vitg.get_config("tiny"), path)


def read_config(path: pathlib.Path) -> None:
    config = configs.load(path)
    try:
        configs.check(config)
    except TadjaxError as error:
        assert "config." in str(error), error
        raise type(error)(f"{path.name}: {error}") from error


# Features


def make_features(path: pathlib.Path) -> None:
    np.save(path, np.arange(48, dtype=np.float32).reshape(12, 4))


def read_features(path: pathlib.Path) -> None:
    array = FeatureFolder(path.parent, 4).open(path)
    assert np.asarray(array).size == math.prod(array.shape) > 0  # a file that ends early would raise, or crash


def make_rules(path: pathlib.Path) -> None:
    rules = {"format": FORMAT, "rule": "", "backbone": {}, "weights_sha256": "", "representation": "frame"}
    rules |= {"snippet_frames": 0, "snippet_stride": 0, "frames_per_feature": 2, "window_features": 32}
    rules |= {"resized_to": 0, "stride": 4, "offset": 0, "fps": 0.0, "picture": 32, "width": 4, "dtype": "float16"}
    path.write_text(json.dumps(rules))
    make_features(path.with_name("video.npy"))


def read_rules(path: pathlib.Path) -> None:
    from configs import thumos_vitg

    config = thumos_vitg.get_config("tiny")
    config.features.path, config.window.stride, config.adaptation.method = str(path.parent), 4, "none"
    folder = feature_folder(config)
    assert folder.rules["stride"] == json.loads(path.read_text())["stride"]
    assert folder.open(path.with_name("video.npy")).shape[1] == folder.width == 4


def make_video_info(path: pathlib.Path) -> None:
    path.write_text(json.dumps({"frames": 48, "fps": 10.0, "duration": 4.8, "times": [0.1 * i for i in range(48)]}))
    make_features(path.with_name("video.npy"))


def read_video_info(path: pathlib.Path) -> None:
    assert info_path(path.with_name("video.npy")) == path
    info, times = FeatureFolder(path.parent, 4, rules={"stride": 4, "resized_to": 0}).describe(
        path.with_name("video.npy")
    )
    assert info.frames in range(45, 49) and math.isfinite(info.fps) and math.isfinite(info.duration)
    assert times is None or (times.shape == (info.frames,) and np.isfinite(times).all())


# Weights


def make_weights_info(path: pathlib.Path) -> None:
    info = {"format": 1, "layout": "vit", "geometry": {"backbone": {"width": 24, "image": 32}}}
    path.write_text(json.dumps({**info, "parameters": {"backbone/x": [[3, 4], "float32"]}}))


def make_pt(path: pathlib.Path) -> None:
    torch.save({"model": tensors(vit_shapes(depth=1)), "epoch": 3}, path)


def make_old_pt(path: pathlib.Path) -> None:
    torch.save({"model": tensors(vit_shapes(depth=1)), "epoch": 3}, path, _use_new_zipfile_serialization=False)


def make_safetensors(path: pathlib.Path) -> None:
    save_file(tensors(vit_shapes(depth=1)), path)


def make_safetensors_header(path: pathlib.Path) -> None:
    """The header alone, as JSON: what `read_safetensors_header` puts before the numbers."""
    entries = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    path.write_text(json.dumps({**entries, "b": {"dtype": "BF16", "shape": [8], "data_offsets": [24, 40]}}))


def read_safetensors_header(path: pathlib.Path) -> None:
    header, file = path.read_bytes(), path.with_suffix(".safetensors")
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(range(40)))
    read_tensors(file)


def make_sharded(path: pathlib.Path) -> None:
    make_safetensors(path.with_name("part.safetensors"))
    path.write_text(json.dumps({"weight_map": dict.fromkeys(list(vit_shapes(depth=1))[:4], "part.safetensors")}))


def read_tensors(path: pathlib.Path) -> None:
    for group in open_checkpoint(path).groups.values():
        for name, tensor in group.items():
            array = tensor.read()
            assert array.shape == tensor.shape, name
            array.sum(dtype=np.float64)  # touches every number: strides that lead out of the file would crash


# Videos


def make_video(path: pathlib.Path) -> None:
    write_moving_square(path, 40, [1] * 40)


def make_joined_video(path: pathlib.Path) -> None:
    """Two transport streams put together, whose clocks fall back: its frames are told by place and time."""
    parts = [ts_part(path.with_suffix(f".{n}"), 20 * n, 20, 10.0 - 5 * n) for n in (0, 1)]
    join(path, *parts)


def make_edited_video(path: pathlib.Path) -> None:
    """With an edit list of two pieces, and a display matrix that mirrors."""
    plain = make(path.with_suffix(".plain"), 90, format="mp4", **X264)
    edit(plain, path, [(500, 40), (500, 0)])
    turned(path, path, (0, 1, 1, 0))


def make_fields(path: pathlib.Path) -> None:
    """Interlaced, each field a packet: paired by what their headers say."""
    camcorder(path, 12, format="mpegts", high=True)


def read_video(path: pathlib.Path) -> None:
    index = frame_index(path)
    frames = read_frames(path, [0, len(index) - 1, len(index) // 2], short_side=24, max_missing=0.9)
    assert frames.frames.shape == (3, *displayed_size(index.info, 24), 3)
    assert 0 <= frames.substituted <= 2


KINDS = (
    Kind("annotations.json", make_annotations, read_annotations),
    Kind("truth.json", make_annotations, read_truth),
    Kind("classes.txt", make_classes, read_class_list),
    Kind("table.csv", make_table, read_tool),
    Kind("via.csv", make_via_csv, read_tool),
    Kind("segments.csv", make_via_segments, read_tool),
    Kind("via.json", make_via_project, read_tool),
    Kind("session.eaf", make_eaf, read_tool),
    Kind("blocked.txt", make_names, read_blocked),
    Kind("results.json", make_results, read_detections),
    Kind("classifier.json", make_classifier, read_classifier),
    Kind("config.json", make_config, read_config),
    Kind("video.npy", make_features, read_features),
    Kind(RULES, make_rules, read_rules, named="features"),
    Kind("video.info.json", make_video_info, read_video_info),
    Kind("weights.json", make_weights_info, lambda path: read_info(path.parent)),
    Kind("model.pth", make_pt, read_tensors),
    Kind("old.pth", make_old_pt, read_tensors),
    Kind("model.safetensors", make_safetensors, read_tensors),
    Kind("header.json", make_safetensors_header, read_safetensors_header, named="header.safetensors"),
    Kind("sharded.json", make_sharded, read_tensors),
    Kind("video.mp4", make_video, read_video),
    Kind("video.mkv", make_video, read_video),
    Kind("video.avi", make_video, read_video),
    Kind("joined.ts", make_joined_video, read_video),
    Kind("edited.mp4", make_edited_video, read_video),
    Kind("fields.mts", make_fields, read_video),
    Kind("video.flv", make_video, read_video),
)
