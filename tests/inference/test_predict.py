"""A run's directory and a video file are all that prediction needs; what it finds equals what evaluation finds."""

import csv
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import unicodedata

import av
import jax
import numpy as np
import pytest

import tadjax
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.config.schema import defaults
from tadjax.data.dataset import Dataset
from tadjax.detections.results import read_results
from tadjax.errors import ConfigError, DataError, WeightsError
from tadjax.inference.evaluate import Evaluator
from tadjax.inference.predict import (
    Filter,
    Predictor,
    find_videos,
    folder_names,
    load,
    predict_files,
    truths_of,
    video_name,
)
from tadjax.parallel import mesh as meshes
from tadjax.training.loop import initial_state
from tadjax.training.optimizer import make_optimizer
from tadjax.workdir.checkpoint import Checkpoints
from tadjax.workdir.run import check_workdir, load_run, write_classes
from tests.conftest import CLASSES, make_small_config
from tests.golden import check_videos
from tests.report.test_page import data_of
from tests.video.odd_files import with_sound


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, small_data) -> pathlib.Path:
    """A run before its first step: random weights, whose scores all differ. Its data set is somewhere else by now."""
    workdir = tmp_path_factory.mktemp("run")
    config = make_small_config(small_data)
    config.data.annotations = config.data.classes = config.data.videos = "gone"
    check_workdir(config, workdir)
    write_classes(workdir, CLASSES)
    checkpoints = Checkpoints(workdir)
    mesh = meshes.make_mesh(config.mesh)
    localizer = build(config, len(CLASSES))
    checkpoints.save(initial_state(config, localizer, make_optimizer(config.optim, 3), mesh, workdir, checkpoints))
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def model(workdir) -> Predictor:
    return tadjax.load(workdir)


@pytest.fixture(scope="module")
def video(small_data) -> pathlib.Path:
    return small_data / "videos" / "video6.mp4"  # 134 frames at 10 a second; a window takes 64


def assert_same(found, wanted, tolerance=1e-5) -> None:
    np.testing.assert_allclose(found.segments, wanted.segments, atol=1e-3)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=tolerance)
    np.testing.assert_array_equal(found.labels, wanted.labels)


@pytest.mark.parametrize("sampling", ["sliding", "resize"])
def test_what_is_found_equals_evaluation(workdir, small_data, sampling):
    config = make_small_config(small_data)
    config.window.sampling = config.window.eval_sampling = sampling
    run = load_run(config, workdir)
    mesh = meshes.make_mesh(config.mesh)
    wanted = Evaluator(Dataset(config), build(config, len(CLASSES)), mesh, workdir / "index").detect(run.params)
    model = load(workdir, config)
    assert len(wanted) == 2
    for name, detections in wanted.items():
        found = model.predict(small_data / "videos" / f"{name}.mp4", top_k=0)
        assert (found.name, len(found)) == (name, len(detections))
        assert_same(found.detections, detections)


def test_five_lines_of_python(model, video, tmp_path):
    found = model.predict(video, top_k=7)
    assert (found.name, found.duration, found.fps, len(found)) == ("video6", 13.4, 10.0, 7)
    rows = list(found)
    assert [score for *_, score in rows] == sorted((score for *_, score in rows), reverse=True)
    assert all(0 <= start <= end <= 13.4 and label in CLASSES for start, end, label, _ in rows)
    assert found.save(tmp_path / "out") == tmp_path / "out"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"detections.{kind}" for kind in ("json", "csv", "srt", "vtt")} | {
        "timeline.png",
        "timeline.svg",
        "report.html",
    }


def test_every_file_holds_the_same_detections(model, video, tmp_path):
    found = model.predict(video, top_k=5)
    found.save(tmp_path)
    rows = list(found)
    results = read_results(tmp_path / "detections.json")
    assert_same(results.videos["video6"], found.detections.__class__(*_renumbered(found, results.classes)), 0)
    with (tmp_path / "detections.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["video"], row["label"]) for row in table] == [("video6", label) for _, _, label, _ in rows]
    np.testing.assert_allclose([float(row["start"]) for row in table], [start for start, *_ in rows], atol=5e-4)
    for kind in ("srt", "vtt"):
        assert (tmp_path / f"detections.{kind}").read_text().count(" --> ") == 5


def _renumbered(found, classes):
    labels = [classes.index(label) for _, _, label, _ in found]
    return found.detections.segments, found.detections.scores, np.array(labels)


def test_filters(model, video):
    every = model.predict(video, top_k=0).detections
    assert len(every) > 100
    assert_same(model.predict(video).detections, every[:100])
    threshold = float(every.scores[20])
    assert_same(model.predict(video, min_score=threshold).detections, every[every.scores >= threshold])
    right = every[every.labels == CLASSES.index("right")]
    assert_same(model.predict(video, labels=["right"], top_k=3).detections, right[:3])
    with pytest.raises(ConfigError, match="knows no label 'rihgt'; did you mean 'right'"):
        model.predict(video, labels=["rihgt"])
    with pytest.raises(ConfigError, match=r"min_score is 1\.5"):
        Filter(min_score=1.5)
    with pytest.raises(ConfigError, match="top_k is -1"):
        Filter(top_k=-1)


def test_no_detection_is_an_answer_too(model, video, tmp_path):
    found = model.predict(video, min_score=1.0)
    assert len(found) == 0
    found.save(tmp_path)
    assert json.loads((tmp_path / "detections.json").read_text())["results"] == {"video6": []}
    assert (tmp_path / "detections.srt").read_text() == ""


def test_nan_scores_name_the_video(workdir, video):
    run = load_run(configs.load(workdir / "config.json"), workdir)
    broken = Predictor(run.__class__(**{**vars(run), "params": jax.tree.map(lambda a: a * np.nan, run.params)}))
    with pytest.raises(DataError, match=r"video6\.mp4: \d+ of \d+ scores are NaN"):
        broken.predict(video)


@pytest.fixture
def folder(tmp_path, small_data) -> pathlib.Path:
    """Two good videos among broken files and one that is none of ours."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("video5.mp4", "video6.mp4"):
        shutil.copy(small_data / "videos" / name, folder)
    (folder / "empty.mp4").touch()
    (folder / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(3000))
    (folder / "notes.txt").write_text("not a video")
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return folder


def test_broken_files_are_a_sentence_each_and_the_rest_goes_on(workdir, folder, tmp_path, small_data, capsys):
    config = configs.load(workdir / "config.json")
    failures = predict_files(
        config,
        workdir,
        [str(folder), str(folder / "video6.mp4"), "nothing*.mp4"],
        output=str(tmp_path / "out"),
        ground_truth=str(small_data / "annotations.json"),
    )
    printed = capsys.readouterr()
    assert [re.sub(r" \(.*", "", failure.removeprefix(f"{folder}/")) for failure in failures] == [
        "nothing*.mp4: no such video file, and no file's name fits it as a pattern",
        "empty.mp4: the video file is empty",
        "noise.mkv: not a video file that FFmpeg can open",
        "sound.mp4: the file has no video stream that can be decoded",
    ]
    assert printed.err.count("error: ") == 5 and "4 of 6 videos could not be used" in printed.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["results.json", "video5", "video6"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert {name: len(found) for name, found in results.items()} == {"video5": 100, "video6": 100}
    assert '"truth": [[' in (tmp_path / "out" / "video6" / "report.html").read_text()


def test_only_missing_videos_load_no_model(tmp_path, capsys):
    assert len(predict_files(None, tmp_path, [str(tmp_path / "a.mp4"), str(tmp_path)])) == 2
    assert "a.mp4: no such video file" in capsys.readouterr().err


def test_a_directory_that_is_no_run(tmp_path, workdir):
    with pytest.raises(ConfigError, match=r"config\.json does not exist: is .* the --workdir of a run"):
        load(tmp_path)
    shutil.copy(workdir / "config.json", tmp_path)
    with pytest.raises(DataError, match=r"classes\.txt does not exist"):
        load(tmp_path)
    shutil.copy(workdir / "classes.txt", tmp_path)
    with pytest.raises(WeightsError, match="holds no checkpoint"):
        load(tmp_path)


def test_files_folders_and_patterns(tmp_path):
    for name in ("b.MP4", "a.mkv", "c [1].webm", "d.txt", ".hidden", "._a.mkv"):
        (tmp_path / name).touch()
    (tmp_path / "sub.mp4").mkdir()
    (tmp_path / "sub.mp4" / "e.avi").touch()

    def names(*videos: str) -> list[str]:
        paths, failures = find_videos([str(tmp_path / video) for video in videos])
        assert failures == []
        return [path.name for path in paths]

    assert names("") == ["a.mkv", "b.MP4", "c [1].webm"]
    assert names("c [1].webm", "d.txt") == ["c [1].webm", "d.txt"]
    assert names("*.m*", "a.mkv") == ["a.mkv"] and names("**/*.avi") == ["e.avi"]


def test_what_a_folder_holds_besides_is_named(tmp_path, capsys, monkeypatch):
    """Also cameras' files of other extensions are found; hidden ones and single files are not spoken of."""
    for name in ("00001.MTS", "clip.3gp", "notes.txt", "d.jpg", "._clip.3gp"):
        (tmp_path / name).touch()
    (tmp_path / "camB").mkdir()
    (tmp_path / "camB" / "e.avi").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [path.name for path in find_videos(["~"])[0]] == ["00001.MTS", "clip.3gp"]
    told = capsys.readouterr().err
    assert f"{tmp_path}: 3 files and folders passed over that are no video files: camB/; d.jpg; notes.txt" in told
    assert find_videos(["~/clip.3gp", "~/notes.txt"])[0] == [tmp_path / "clip.3gp", tmp_path / "notes.txt"]
    assert capsys.readouterr().err == "", "what is named is meant"
    for name in ("00001.MTS", "clip.3gp"):
        (tmp_path / name).unlink()
    paths, (failure,) = find_videos([str(tmp_path)])
    assert paths == [] and "holds no video file (.mp4, " in failure
    assert failure.endswith(f"; for those of subfolders, such as camB/, give '{tmp_path}/**/*.mp4'")


TRUTHS = [
    (["a.mp4", "b.mp4"], ["a", "b.MP4"], {"a.mp4": "a", "b.mp4": "b.MP4"}, ""),
    (
        ["camA/clip.mp4", "camB/clip.mp4"],
        ["camA/clip", "camB/clip"],
        {f"cam{c}/clip.mp4": f"cam{c}/clip" for c in "AB"},
        "",
    ),
    (["camA/clip.mp4", "camB/clip.mp4"], ["clip"], {}, "'clip' could be camA/clip.mp4 or camB/clip.mp4"),
    (["camA/clip.mp4", "camA/other.mp4"], ["camB/clip", "other"], {"camA/other.mp4": "other"}, ""),
    (["v_a.mp4"], ["a"], {"v_a.mp4": "a"}, ""),
    ([unicodedata.normalize("NFD", "é.mp4")], ["é"], {unicodedata.normalize("NFD", "é.mp4"): "é"}, ""),
    (["a.mp4", "a.mkv"], ["a"], {}, "'a' could be a.mp4 or a.mkv: its truth is not shown"),
    (["A.mp4"], ["a", "A"], {}, "'a', 'A' could all be "),
    (["a.mp4"], ["b"], {}, ""),
]


@pytest.mark.parametrize(("files", "names", "wanted", "told"), TRUTHS)
def test_the_ground_truth_of_a_file_is_never_anothers(tmp_path, capsys, files, names, wanted, told):
    known = {"subset": "test", "duration": 9.0}
    database = {
        name: {**known, "annotations": [{"segment": [number, number + 0.5], "label": "left"}]}
        for number, name in enumerate(names)
    }
    (tmp_path / "truth.json").write_text(json.dumps({"database": database}))
    config = defaults()
    config.data.prefix = "v_"
    found = truths_of([tmp_path / file for file in files], str(tmp_path / "truth.json"), CLASSES, config)
    begins = {str(path.relative_to(tmp_path)): int(truth.segments[0, 0]) for path, truth in found.items()}
    assert begins == {file: names.index(name) for file, name in wanted.items()}
    printed = capsys.readouterr().err
    assert (told in printed) if told else printed == ""


def test_names_of_results_never_collide():
    paths = [pathlib.Path(path) for path in ("/a/x.mp4", "/a/x.mkv", "/b/x.mkv", "/b/x", "/c/x_mkv.avi", "/c/...mp4")]
    assert folder_names(paths) == ["x", "x_mkv", "x_mkv_2", "x_2", "x_mkv_avi", "...mp4"]
    assert video_name(pathlib.Path("caf\udce9.mp4")) == "caf\ufffd"


def test_the_command_line_tells_by_its_exit_status(workdir, folder):
    """Files are written, whatever their names; a broken one makes the status 1, a wrong flag makes it 2."""
    command = [sys.executable, "-m", "tadjax.main", f"--workdir={workdir}", "--mode=predict", "--top_k=3"]
    (folder / "video6.mp4").rename(folder / os.fsdecode(b"caf\xe9.mp4"))
    videos = [f"--video={folder}/{name}" for name in ("video5.mp4", "caf*.mp4", "empty.mp4")]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as in most locales
    done = subprocess.run([*command, *videos], capture_output=True, text=True, check=False, env=strict)
    assert done.returncode == 1, done.stderr
    assert "caf\\udce9.mp4  0:13.4  3 detections" in done.stdout
    assert f"error: {folder}/empty.mp4: the video file is empty (0 bytes)\n" in done.stderr
    report = workdir / "predictions" / "video5" / "report.html"
    assert f"video5.mp4  0:12.5  3 detections -> {report}" in done.stdout and report.exists()
    done = subprocess.run([*command, videos[0], "--labels=jump"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "error: the model knows no label 'jump'; its classes are left, right, still",
    )


def test_all_that_is_written_of_a_late_video_is_on_the_players_clock(model, workdir, tmp_path):
    """The pictures begin at 2 s, after the sound: JSON, CSV, SRT, VTT and the page say what a player does."""
    early = model.predict(with_sound(tmp_path / "early.mp4", 0.0, frames=140), top_k=5)
    late = model.predict(with_sound(tmp_path / "late.mp4", 2.0, frames=140), top_k=5)
    assert (late.start, late.duration) == (2.0, pytest.approx(140 / 30 + 2))
    np.testing.assert_allclose(late.detections.segments, early.detections.segments + 2, atol=1e-3)
    folder = late.save(tmp_path / "out")
    found = late.detections.segments
    np.testing.assert_allclose(read_results(folder / "detections.json").videos["late"].segments, found, atol=1e-3)
    rows = list(csv.DictReader((folder / "detections.csv").read_text().splitlines()))
    np.testing.assert_allclose([[float(row["start"]), float(row["end"])] for row in rows], found, atol=1e-3)
    for name, mark in (("detections.srt", ","), ("detections.vtt", ".")):
        cues = re.findall(r"00:00:(\d\d).(\d{3}) -->", (folder / name).read_text())
        assert sorted(float(f"{a}.{b}") for a, b in cues) == pytest.approx(sorted(found[:, 0]), abs=1e-3), mark
    data = data_of((folder / "report.html").read_text())
    np.testing.assert_allclose([row[:2] for row in data["detections"]], found, atol=1e-3)
    assert data["duration"] == late.duration
    for first_picture, moved in ((None, 2.0), (2.0, 0.0)):  # a publisher's annotations count from the first picture
        entry = {"subset": "test", "duration": 140 / 30, "fps": 30}
        entry |= {} if first_picture is None else {"first_picture": first_picture}
        entry |= {"annotations": [{"segment": [2.5, 4.0], "label": "left"}]}
        (tmp_path / "truth.json").write_text(json.dumps({"database": {"late": entry}}))
        given = {"output": str(tmp_path / "again"), "ground_truth": str(tmp_path / "truth.json")}
        config = configs.load(workdir / "config.json")
        assert predict_files(config, workdir, [str(tmp_path / "late.mp4")], **given) == []
        data = data_of((tmp_path / "again" / "late" / "report.html").read_text())
        assert data["truth"] == [[2.5 + moved, 4.0 + moved, CLASSES.index("left")]]


def test_the_package_is_light():
    """Neither `import tadjax` nor what works on results files alone imports JAX."""
    code = "import sys, tadjax, tadjax.metrics.__main__, tadjax.report.__main__; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("name", sorted(json.loads(check_videos.REFERENCE.read_text())))
def test_real_files(model, name, tmp_path):
    """All kinds of containers, codecs, rotation, damage: every file that opens has detections, inside its length."""
    file = check_videos.VIDEOS / name
    if not file.exists():
        pytest.skip(f"{file} is not there")
    if name == "derived_nasa_truncated.mp4":
        with pytest.raises(DataError, match=f"{name}: not a video file that FFmpeg can open"):
            model.predict(file)
        return
    found = model.predict(file, top_k=5)
    assert len(found) == 5
    assert all(0 <= start <= end <= found.duration for start, end, _, _ in found)
    assert found.save(tmp_path).joinpath("report.html").exists()
