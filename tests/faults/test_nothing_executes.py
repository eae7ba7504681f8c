"""Nothing that is loaded runs: no pickle, no path that leads elsewhere, no markup from names."""

import ast
import json
import os
import pathlib
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.files import open_checkpoint
from tadjax.data.annotations import load_annotations
from tadjax.data.features import FeatureFolder, open_npy
from tadjax.detections.decode import Detections
from tadjax.detections.fusion import load_classifier
from tadjax.errors import DataError, WeightsError
from tadjax.report.page import write_page
from tadjax.video.folder import EXTENSIONS, find_videos
from tadjax.video.frame_index import frame_index
from tests.conftest import ROOT, write_moving_square

FOLDERS = ("tadjax", "convert", "configs", "launch")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
RUN_WHAT_THEY_LOAD = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
RUN_TEXT = {"eval", "exec", "compile", "__import__"}
NEEDED = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_loads_what_could_run(path):
    tree = ast.parse(path.read_text())
    imported, used = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add(f"{node.value.id}.{node.attr}")
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in RUN_TEXT, f"line {node.lineno} calls {name}"
            options = {option.arg: getattr(option.value, "value", None) for option in node.keywords}
            assert not options.get("shell"), f"line {node.lineno} runs a shell"
            if name in NEEDED:
                option, value = NEEDED[name]
                assert options.get(option) is value, f"line {node.lineno}: {name} without {option}={value}"
    of_pickle = {name for name in used if name.partition(".")[0] in RUN_WHAT_THEY_LOAD}
    for node in ast.walk(tree):  # an unpickler that decides itself what may be found, and its error
        if isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases):
            assert "find_class" in {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            of_pickle.remove("pickle.Unpickler")
    assert of_pickle <= {"pickle.UnpicklingError"}, of_pickle
    assert imported & RUN_WHAT_THEY_LOAD <= ({"pickle"} if of_pickle else set())


class Attack:
    """Unpickled, it makes a file."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_in_arrays_are_refused_and_not_run(tmp_path):
    attack, path = np.array([Attack(tmp_path / "ran")], object), tmp_path / "x.npy"
    np.save(path, attack, allow_pickle=True)
    with pytest.raises(DataError, match=r"x\.npy"):
        open_npy(path)
    with pytest.raises(DataError, match=r"x\.npy"):
        load_classifier(path, "untrimmednet")
    path.write_bytes(pickle.dumps(Attack(tmp_path / "ran")))
    with pytest.raises(DataError, match=r"x\.npy"):
        open_npy(path)
    assert not (tmp_path / "ran").exists()


def test_a_frame_index_that_became_a_pickle_is_made_anew(tmp_path):
    write_moving_square(tmp_path / "x.mp4", 20, [1] * 20)
    index = frame_index(tmp_path / "x.mp4", tmp_path / "index")
    (kept,) = (tmp_path / "index").iterdir()
    with np.load(kept, allow_pickle=False) as file:
        arrays = dict(file)
    np.savez(kept, **{**arrays, "pts": np.array([Attack(tmp_path / "ran")], object)}, allow_pickle=True)
    (tmp_path / "x.mp4").rename(tmp_path / "y.mp4")  # out of the memory of this process, then back
    frame_index.__globals__["_frame_index"].cache_clear()
    (tmp_path / "y.mp4").rename(tmp_path / "x.mp4")
    np.testing.assert_array_equal(frame_index(tmp_path / "x.mp4", tmp_path / "index").pts, index.pts)
    assert not (tmp_path / "ran").exists()


PARTS = st.sampled_from(("..", ".", "", "a", "b c", "~", "C:", "\\", "//x", "\x00", "etc", "...", "%2e%2e", "\u2025"))
NAMES = st.one_of(st.text(max_size=12), st.lists(PARTS, min_size=1, max_size=5).map("/".join))


@settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(NAMES)
def test_no_name_leads_out_of_the_data_folder(tmp_path, name):
    root, file = tmp_path / "root", tmp_path / "annotations.json"
    entry = {"subset": "training", "duration": 9.0, "annotations": [{"segment": [1, 2], "label": "x"}]}
    file.write_text(json.dumps({"database": {name: entry}}))
    try:
        videos = load_annotations(file, "training").videos
    except DataError as error:
        assert str(file) in str(error)
        return
    for path in (root / f"{name}{EXTENSIONS[0]}", FeatureFolder(root, 4).file(name), root / name / "report.html"):
        assert os.path.normpath(path).startswith(f"{root}{os.sep}"), path
    root.mkdir(exist_ok=True)
    with pytest.raises(DataError, match="missing"):
        find_videos(videos, root)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x", "", 7])
def test_no_shard_leads_out_of_its_folder(tmp_path, name):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json: 'weight_map' names .* no file beside"):
        open_checkpoint(index)


@settings(max_examples=50, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=3, unique=True),
    st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), min_size=1, max_size=20),
)
def test_no_label_and_no_file_name_becomes_markup(tmp_path, labels, name):
    labels = [f"{label}</script><img src=x onerror=alert(1)><!--" for label in labels]
    found = Detections(np.array([[1.0, 2.0]]), np.array([0.5]), np.array([0]))
    for video in (f"{name}.mp4", f"<img src=x onerror=alert(1)>{name}.mp4"):
        write_page(tmp_path / "page.html", tmp_path / video, 3.0, 10.0, None, found, labels)
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert page.count("</script>") == 2 and "<img" not in page and "<!--" not in page
