"""TFDS data sets: what is trained on is the same, to the last bit, whether read from files or from their records."""

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tadjax.data import built
from tadjax.data.dataset import Dataset
from tadjax.data.loader import evaluation_batches, train_batches
from tadjax.errors import DataError
from tadjax.prepare.__main__ import DATASETS
from tadjax.prepare.builders import write as writer
from tadjax.prepare.builders.__main__ import main
from tadjax.prepare.builders.catalogue import CATALOGUE
from tadjax.prepare.jobs import keep_settings
from tadjax.prepare.reencode import SETTINGS, Encoding, reencode_folder
from tadjax.training.loop import train
from tadjax.video.frame_index import frame_index
from tadjax.video.frames import read_frames
from tests.conftest import ROOT, make_small_config
from tests.data.test_loader import assert_same, take
from tests.video.numbered_videos import make

THUMOS_NAME = "video_test_0000001"
PIECES = ("--embed", "--seconds", "4", "--processes", "0")


@pytest.fixture(scope="module")
def root(small_data, tmp_path_factory):
    """The small data set as a public one: annotations that are odd in some ways, videos re-encoded."""
    root = tmp_path_factory.mktemp("thumos")
    content = json.loads((small_data / "annotations.json").read_text())
    names = {"video0": THUMOS_NAME}  # THUMOS14's "Ambiguous" is no class of its videos
    content["database"] = {names.get(name, name): entry for name, entry in content["database"].items()}
    first, second = content["database"][THUMOS_NAME], content["database"]["video5"]
    first["annotations"].append({"segment": [0.1, 0.7], "label": "Ambiguous"})
    first["annotations"].append({"segment": [1 / 3, 0.7], "label": "still", "note": "kept"})
    second["annotations"].append(dict(second["annotations"][0]))
    (root / "annotations.json").write_text(json.dumps(content))
    shutil.copy(small_data / "classes.txt", root / "classes.txt")
    files = {names.get(path.stem, path.stem): path for path in (small_data / "videos").iterdir()}
    assert not reencode_folder(files, root / "videos", Encoding(short_side=36), processes=0)
    return root


@pytest.fixture(scope="module")
def packed(root, tmp_path_factory):
    output = tmp_path_factory.mktemp("packed")
    assert main(["thumos", "--root", str(root), "--output", str(output), *PIECES]) == 0
    return output / "thumos"


def config_of(root, folder=""):
    config = make_small_config(root)
    config.data.tfds = str(folder)
    if folder:
        config.data.annotations = config.data.classes = ""
    return config


def batches(config, tmp_path, workers=0):
    dataset = Dataset(config)
    train, test = dataset.training_set(tmp_path), dataset.evaluation_set(tmp_path)
    got = take(train_batches(train, 2, workers=workers), 4) + list(evaluation_batches(test, 3, workers=workers))
    return dataset.classes, got, dataset.truth


def assert_equal(got, want):
    assert got[0] == want[0] == ("left", "right", "still")
    assert_same(got[1][:4], want[1][:4])
    assert_same(got[1][4:], want[1][4:])
    for name in ("videos", "classes", "subset"):
        assert getattr(got[2], name) == getattr(want[2], name)
    np.testing.assert_array_equal(got[2].segments, want[2].segments)
    np.testing.assert_array_equal(got[2].labels, want[2].labels)


@pytest.fixture(scope="module")
def wanted(root, tmp_path_factory):
    return batches(config_of(root), tmp_path_factory.mktemp("index"))


def test_every_data_set_can_be_built():
    assert set(CATALOGUE) == set(DATASETS)
    for entry in CATALOGUE.values():
        assert entry.homepage.startswith("http")
        assert entry.citation.startswith("@inproceedings{") and entry.citation.endswith("}")


def test_names_of_files_give_the_same_batches(root, wanted, tmp_path):
    assert main(["thumos", "--root", str(root), "--output", str(tmp_path / "tfds")]) == 0
    assert_equal(batches(config_of(root, tmp_path / "tfds" / "thumos"), tmp_path), wanted)
    size = sum(path.stat().st_size for path in (tmp_path / "tfds").rglob("*") if path.is_file())
    assert size < 300_000  # two shards, which ArrayRecord fills up to whole blocks of 64 KiB


def test_names_with_folders(small_data, tmp_path):
    """EPIC-Kitchens keeps the videos of each person in a folder of their own."""
    content = json.loads((small_data / "annotations.json").read_text())["database"]
    (tmp_path / "annotations.json").write_text(
        json.dumps({"database": {f"P01/{name}": entry for name, entry in content.items()}})
    )
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "P01").symlink_to(small_data / "videos")
    assert main(["thumos", "--root", str(tmp_path), "--output", str(tmp_path)]) == 0
    data = built.read_built(str(tmp_path / "thumos"))
    videos = data.annotations("validation").videos
    assert data.find(videos, tmp_path / "videos") == [tmp_path / "videos" / "P01" / f"video{i}.mp4" for i in (5, 6)]


@pytest.mark.parametrize("workers", [0, 1])
def test_embedded_videos_give_the_same_batches(root, packed, wanted, tmp_path, workers):
    config = config_of(root, packed)
    config.data.videos = ""
    assert_equal(batches(config, tmp_path, workers), wanted)


def test_originals_are_re_encoded_on_the_way(small_data, root, packed, tmp_path):
    """To the same bytes that --reencode writes."""
    for file in ("annotations.json", "classes.txt"):
        shutil.copy(root / file, tmp_path / file)
    (tmp_path / "videos").mkdir()
    for path in (small_data / "videos").iterdir():
        name = THUMOS_NAME if path.stem == "video0" else path.stem
        (tmp_path / "videos" / f"{name}.mp4").symlink_to(path)
    arguments = ["thumos", "--root", str(tmp_path), "--output", str(tmp_path / "tfds"), "--short-side", "36"]
    assert main([*arguments, *PIECES]) == 0
    assert records(tmp_path / "tfds" / "thumos") == records(packed)


def records(folder) -> list[tuple]:
    """Of the pieces."""
    pieces = tfds.builder_from_directory(folder / "pieces" / "1.0.0")
    return [tuple(record.values()) for split in pieces.info.splits for record in pieces.as_data_source(split)]


def contents(folder) -> dict[str, bytes]:
    """Shards and metadata of both parts."""
    files = [path for path in folder.rglob("*") if path.is_file() and "progress" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_tfds_reads_it_without_tensorflow(root, packed):
    database = json.loads((root / "annotations.json").read_text())["database"]
    videos = tfds.builder_from_directory(packed / "videos" / "1.0.0")
    assert videos.info.name == "thumos"
    assert videos.info.citation == CATALOGUE["thumos"].citation
    assert {name: split.num_examples for name, split in videos.info.splits.items()} == {"training": 5, "validation": 2}
    record = videos.as_data_source("training")[1]
    assert record["video"] == b"video1"
    assert json.loads(record["entry"]) == database["video1"]
    np.testing.assert_allclose(record["segments"], [a["segment"] for a in database["video1"]["annotations"]], rtol=1e-6)
    pieces = tfds.builder_from_directory(packed / "pieces" / "1.0.0")
    source = pieces.as_data_source("training")
    assert len(source) == sum(-(-(80 + 9 * i) // 40) for i in range(5))  # of 40 frames each
    piece = source[int(record["first_piece"]) + 1]
    assert (piece["video"], piece["first_frame"], piece["frames"]) == (b"video1", 40, 40)
    assert piece["content"][4:8] == b"ftyp"
    assert str(pieces.info.file_format.value) == "array_record"
    assert "tensorflow" not in sys.modules


def test_a_piece_is_as_long_as_asked_and_begins_at_a_key_frame(root):
    index = frame_index(root / "videos" / "video6.mp4")  # 134 frames, a key frame every 20
    assert writer.piece_starts(index, 0).tolist() == [0, 20, 40, 60, 80, 100, 120]
    assert writer.piece_starts(index, 5.0).tolist() == [0, 60, 120]
    assert writer.piece_starts(index, 1e9).tolist() == [0]


def test_a_file_that_cannot_be_cut_is_refused(tmp_path):
    """Frames before a key frame in time that come after it in the file need it and the ones before."""
    for name, gop in (("open", "open-gop=1"), ("closed", "open-gop=0")):
        make(
            tmp_path / f"{name}.mp4",
            60,
            bf=3,
            x264_params=f"keyint=10:min-keyint=5:scenecut=0:{gop}:bframes=3:b-adapt=0",
        )
    index = frame_index(tmp_path / "closed.mp4")
    assert len(list(writer.cut(index, writer.piece_starts(index, 0)))) == 6
    index = frame_index(tmp_path / "open.mp4")
    with pytest.raises(DataError, match="open.mp4: its groups of pictures are not closed, so it cannot be cut"):
        list(writer.cut(index, writer.piece_starts(index, 0)))


def test_frames_beyond_the_end_are_those_of_the_file(root, packed):
    [video] = [v for v in built.read_built(str(packed)).files.values() if v.name == THUMOS_NAME]
    for indices in ([79, 80, 85], [3, 3, 50, 0]):
        got = video.read_frames(np.array(indices), short_side=20, center_crop=16, max_missing=1.0)
        want = read_frames(
            root / "videos" / f"{THUMOS_NAME}.mp4", indices, short_side=20, center_crop=16, max_missing=1.0
        )
        np.testing.assert_array_equal(got.frames, want.frames)
        assert got.substituted == want.substituted


def test_a_run_goes_on_where_it_was_killed(root, packed, tmp_path, monkeypatch):
    """No half shard is taken for a whole one, and whole ones are not written again."""
    monkeypatch.setattr(writer, "SHARD_SECONDS", 15)
    arguments = ["thumos", "--root", str(root), "--output", str(tmp_path), *PIECES]
    write, whole = writer.write_pieces, []

    def killed(files, shard, done, cutting):
        if len(whole) == 2:
            (shard.with_name(f"{shard.name}.part")).write_bytes(b"half a shard")
            raise KeyboardInterrupt
        write(files, shard, done, cutting)
        whole.append(shard)

    monkeypatch.setattr(writer, "write_pieces", killed)
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    with pytest.raises(DataError, match="holds no finished TFDS data set"):
        built.read_built(str(tmp_path / "thumos"))
    stamps = [shard.stat().st_mtime_ns for shard in whole]
    monkeypatch.setattr(writer, "write_pieces", write)
    assert main(arguments) == 0
    assert [shard.stat().st_mtime_ns for shard in whole] == stamps
    assert len(list((tmp_path / "thumos" / "pieces" / "1.0.0").glob("*array_record*"))) == 4
    assert not list(tmp_path.rglob("*.part"))
    got, want = built.read_built(str(tmp_path / "thumos")), built.read_built(str(packed))
    assert got.database == want.database
    for name in ("video4", "video6"):
        frames = [files[name].read_frames(np.arange(0, 90, 7)).frames for files in (got.files, want.files)]
        np.testing.assert_array_equal(*frames)
    before = contents(tmp_path / "thumos")
    assert main(arguments) == 0
    assert contents(tmp_path / "thumos") == before


def test_a_video_that_cannot_be_packed_is_named_and_can_be_blocked(small_data, tmp_path, capsys):
    for file in ("annotations.json", "classes.txt"):
        shutil.copy(small_data / file, tmp_path / file)
    shutil.copytree(small_data / "videos", tmp_path / "videos")
    (tmp_path / "videos" / "video1.mp4").write_bytes(b"no video")
    arguments = ["thumos", "--root", str(tmp_path), "--output", str(tmp_path / "tfds"), "--short-side", "36", *PIECES]
    assert main(arguments) == 1
    assert "video1.mp4: not a video file" in capsys.readouterr().err
    (tmp_path / "blocked.txt").write_text("video1\n")
    assert main(arguments) == 0
    assert "holds 6 videos, without 1 blocked ones" in capsys.readouterr().out
    assert "video1" not in built.read_built(str(tmp_path / "tfds" / "thumos")).database
    assert main([*arguments, "--crf", "30"]) == 2
    assert "was begun with other settings (crf was 18, is 30)" in capsys.readouterr().err


def test_what_is_no_data_set_is_one_sentence(root, tmp_path, capsys):
    config = config_of(root, tmp_path / "nothing")
    with pytest.raises(DataError, match=r"nothing/videos/1.0.0: holds no finished TFDS data set"):
        _ = Dataset(config).classes
    assert main(["anet", "--root", str(tmp_path), "--output", str(tmp_path)]) == 2
    assert "annotations.json: no such file" in capsys.readouterr().err


def test_names_that_tfds_would_misread_are_refused(tmp_path):
    for name, subset in (("my-data", "training"), ("mine", "all"), ("mine", "test set")):
        database = {"a": {"subset": subset, "duration": 1.0, "annotations": []}}
        files = {"a": tmp_path / "a.mp4"}
        source = writer.Source(name, database, ("left",), tmp_path, files, CATALOGUE["thumos"])
        with pytest.raises(DataError, match="cannot name a TFDS data set or split"):
            writer.write(source, tmp_path)


def test_a_full_disk_is_one_sentence(root, tmp_path):
    """Files may grow to 100 kB here; the shards that are whole stay."""
    code = (
        "import resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from tadjax.prepare.builders.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "thumos", "--root", root, "--output", tmp_path, *PIECES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and all("cannot be written" in line and "File too large" in line for line in lines)
    assert not list(tmp_path.rglob("*.part"))
    assert main(["thumos", "--root", str(root), "--output", str(tmp_path), *PIECES]) == 0


def test_damage_is_one_sentence_and_never_another_picture(packed, tmp_path):
    """Each file cut off, emptied, or with a stretch of zeros."""
    videos = built.read_built(str(packed)).files
    indices = np.arange(0, 80, 9)
    want = {name: video.read_frames(indices).frames for name, video in videos.items()}
    refused = 0
    files = [path.relative_to(packed) for path in packed.rglob("*") if path.parent.name == "1.0.0" and path.is_file()]
    for number, file in enumerate(files):
        for kind in range(3):
            folder = tmp_path / f"{number}_{kind}"
            shutil.copytree(packed, folder)
            content = bytearray((folder / file).read_bytes())
            middle = len(content) // 3
            zeroed = bytes(min(100, len(content) - middle))
            (folder / file).write_bytes(
                (content[:middle], b"", content[:middle] + zeroed + content[middle + 100 :])[kind]
            )
            try:
                for name, video in built.read_built(str(folder)).files.items():
                    np.testing.assert_array_equal(video.read_frames(indices).frames, want[name])
            except DataError as error:
                assert str(folder) in str(error)
                refused += 1
    assert refused >= 2 * 8, "all that are cut off or empty, but for the labels' names, which TFDS goes without"


@pytest.mark.slow
def test_training_on_pieces_ends_as_training_on_files(root, packed, tmp_path):
    losses, metrics = [], []
    for name, folder in (("files", ""), ("pieces", packed)):
        config = config_of(root, folder)
        config.optim.epochs, config.train.eval_from_epoch = 1, 0
        metrics.append(train(config, tmp_path / name))
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
@pytest.mark.parametrize("whole", [0, 1, 2])
def test_killed_for_real(small_data, root, packed, tmp_path, whole):
    """SIGKILL to the parent of two working processes once some shards are whole; the next run finishes the rest."""
    data = tmp_path / "thumos"
    data.mkdir()
    for file in ("annotations.json", "classes.txt"):
        shutil.copy(root / file, data / file)
    (data / "videos").symlink_to(small_data / "videos")
    script = tmp_path / "build.py"
    script.write_text(
        "import sys\nfrom tadjax.prepare.builders import write\nfrom tadjax.prepare.builders.__main__ import main\n"
        "write.SHARD_SECONDS = 1\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    output = tmp_path / "tfds"
    arguments = ["thumos", "--root", data, "--output", output, "--embed", "--seconds", "4", "--short-side", "36"]
    command = [sys.executable, script, *arguments, "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, env=environment, start_new_session=True)
    progress = output / "thumos" / "pieces" / "1.0.0" / "progress"
    while len(list(progress.glob("*.json"))) < whole or not progress.exists():
        assert running.poll() is None
        time.sleep(0.002)
    running.kill()
    running.wait()
    assert not (output / "thumos" / "videos" / "1.0.0" / "dataset_info.json").exists()
    subprocess.run(command, env=environment, check=True, timeout=300)
    assert records(output / "thumos") == records(packed)


@pytest.mark.slow
def test_a_split_beyond_what_tfds_writes_itself(tmp_path):
    """1.1 GB: one noisy video under many names. Batches are those of the files, and memory holds a piece at a time."""
    rng = np.random.default_rng(0)
    keep_settings(tmp_path / "videos" / SETTINGS, dataclasses.asdict(Encoding()))
    noise = tmp_path / "noise.mp4"
    with av.open(str(noise), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0", "preset": "ultrafast", "g": "20"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for _ in range(100):
            picture = rng.integers(0, 256, (480, 640, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    database = {}
    for number in range(1_100_000_000 // noise.stat().st_size + 3):
        (tmp_path / "videos" / f"video{number}.mp4").symlink_to(noise)
        segment = [number % 5 + 0.5, number % 5 + 2.0]
        annotation = {"segment": segment, "label": ("left", "right", "still")[number % 3]}
        subset = "training" if number else "validation"
        database[f"video{number}"] = {"subset": subset, "duration": 10.0, "frame": 100, "annotations": [annotation]}
    (tmp_path / "annotations.json").write_text(json.dumps({"database": database}))
    (tmp_path / "classes.txt").write_text("left\nright\nstill\n")
    output = tmp_path / "tfds"
    arguments = ["thumos", "--root", str(tmp_path), "--output", str(output), "--embed", "--seconds", "2"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main([*arguments, "--processes", "0"]) == 0
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 300, f"{grown:.0f} MiB"
    pieces = tfds.builder_from_directory(output / "thumos" / "pieces" / "1.0.0")
    assert pieces.info.splits["training"].num_bytes > 1_100_000_000
    assert len(pieces.as_data_source("training")) == 5 * (len(database) - 1)
    assert "tensorflow" not in sys.modules
    assert_equal(batches(config_of(tmp_path, output / "thumos"), tmp_path), batches(config_of(tmp_path), tmp_path))
