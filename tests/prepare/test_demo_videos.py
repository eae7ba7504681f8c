"""The demo data set: what its files are, and that a single frame tells nothing about the action."""

import dataclasses
import itertools
import json
from collections import Counter

import av
import numpy as np
import pytest

from tadjax.errors import DataError
from tadjax.prepare import demo_videos

SMALL = demo_videos.DemoSpec(training=5, validation=3, seconds=(3.0, 5.0))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return demo_videos.make_demo(tmp_path_factory.mktemp("demo") / "data", seed=3, spec=SMALL, workers=1)


def files_of(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def scenes(count, seed=0):
    return [demo_videos.draw_scene(seed, index) for index in range(count)]


def moments(count):
    """One random moment of an action each (`count` a class) and as many without action, every one of another scene.

    Returns frames float32 [n, 16, 16, 3], labels [n], and whether the actor stands in the right half [n]."""
    rng = np.random.default_rng(0)
    frames, labels, right = [], [], []
    missing = Counter(dict.fromkeys((*demo_videos.ACTIONS, "none"), count))
    for index in itertools.count():
        if not missing.total():
            return np.array(frames), np.array(labels), np.array(right)
        scene = demo_videos.draw_scene(11, index)
        seconds = rng.uniform(0, scene.duration)
        label = next((action.label for action in scene.actions if action.start <= seconds < action.end), "none")
        if missing[label]:
            missing[label] -= 1
            frames.append(downsampled(demo_videos.render(scene, seconds)))
            labels.append(label)
            right.append(np.cos(2 * np.pi * demo_videos.actor_state(scene, seconds)[0]) > 0)


def downsampled(frame, size=16):
    """The centre square at size x size."""
    height, width, _ = frame.shape
    short = min(height, width)
    frame = frame[(height - short) // 2 :, (width - short) // 2 :][:short, :short].astype(np.float32)
    at = np.arange(size + 1) * short // size
    return np.add.reduceat(np.add.reduceat(frame, at[:-1], 0), at[:-1], 1) / (short / size) ** 2


def accuracy(features, labels):
    """Of ridge regression onto the labels' indicators: trained on one half, tested on the other, as a share."""
    features = features.reshape(len(features), -1)
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    kernel = features @ features.T / features.shape[1]
    classes, indices = np.unique(labels, return_inverse=True)
    half = np.arange(len(labels)) % 2 == 0
    weights = np.linalg.solve(
        kernel[np.ix_(half, half)] + 0.3 * np.eye(half.sum()), np.eye(len(classes))[indices[half]]
    )
    return np.mean((kernel[np.ix_(~half, half)] @ weights).argmax(1) == indices[~half])


class TestScenes:
    def test_the_actors_state_is_uniform_at_any_time_in_any_class(self):
        states = {label: [] for label in (*demo_videos.ACTIONS, "none")}
        for scene in scenes(250):
            states["none"].append(demo_videos.actor_state(scene, 0.1))  # before the first action
            for action in scene.actions[:2]:
                states[action.label].append(demo_videos.actor_state(scene, (action.start + action.end) / 2))
        for label, values in states.items():
            values = np.sort(np.array(values), axis=0)
            count = len(values)
            assert count >= 60
            distance = np.abs(values - (np.arange(count) + 0.5)[:, None] / count).max()  # Kolmogorov-Smirnov
            assert distance < 1.95 / np.sqrt(count), f"{label}: {distance:.3f} (1.95/sqrt(n) is passed once in 1000)"

    def test_a_single_frame_tells_where_the_actor_stands_but_not_what_it_does(self):
        frames, labels, right = moments(80)
        features = np.concatenate([frames, np.abs(frames - frames.mean((1, 2), keepdims=True))], axis=-1)
        chance = 1 / (len(demo_videos.ACTIONS) + 1)
        deviation = np.sqrt(chance * (1 - chance) / (len(labels) / 2))
        assert accuracy(features, labels) < chance + 3 * deviation
        assert accuracy(features, right) > 0.8

    def test_actions_move_what_their_class_says(self):
        for scene in scenes(20):
            for action in scene.actions:
                middle, dt = (action.start + action.end) / 2, 0.01
                change = demo_videos.actor_state(scene, middle + dt) - demo_videos.actor_state(scene, middle)
                rate = ((change + 0.5) % 1.0 - 0.5) / dt
                moving = np.abs(rate) > 0.5  # turns a second; an action makes at least 1/1.5, wandering at most 0.09
                assert list(moving) == [step != 0 for step in demo_videos.ACTIONS[action.label]]
                if action.label in ("grow", "shrink"):
                    assert np.sign(rate[2]) == demo_videos.ACTIONS[action.label][2]

    def test_actions_are_half_a_second_to_ten_long_apart_and_inside(self):
        lengths, labels = [], Counter()
        for scene in scenes(60):
            ends = 0.0
            for action in scene.actions:
                assert action.start >= ends + demo_videos.PAUSE_SECONDS[0] - 2e-3
                ends = action.end
                lengths.append(action.end - action.start)
                labels[action.label] += 1
            assert ends <= scene.duration
            assert len(scene.actions) >= 2
        assert min(lengths) >= 0.499 and max(lengths) <= 10.0
        assert max(lengths) > 6 and min(lengths) < 0.9
        assert set(labels) == set(demo_videos.ACTIONS)
        assert max(labels.values()) < 1.4 * min(labels.values())

    def test_the_default_spec_has_all_frame_rates_and_lasts_20_to_60_seconds(self):
        spec = demo_videos.DemoSpec()
        assert spec.training >= 24 and spec.validation >= 8
        drawn = scenes(spec.training + spec.validation)
        for part in (drawn[: spec.training], drawn[spec.training :]):
            assert {round(float(scene.fps), 2) for scene in part} == {24, 25, 29.97, 30, 60}
            assert len({(scene.width, scene.height) for scene in part}) == len(demo_videos.SIZES)
        assert all(20 <= scene.duration <= 60 for scene in drawn)


class TestAimlessClips:
    def test_the_mask_is_where_the_picture_shows_the_actor(self):
        for scene in scenes(6):
            recolored = dataclasses.replace(scene, colors=255 - scene.colors)
            seconds = scene.duration / 2
            changed = np.any(demo_videos.render(scene, seconds) != demo_videos.render(recolored, seconds), axis=2)
            mask = demo_videos.render_mask(scene, seconds)
            assert changed[mask == 255].mean() > 0.98  # a colour of the middle, 127 and 128, may stay
            assert not changed[mask == 0].any()

    def test_a_clip_is_a_function_of_seed_and_number(self):
        frames, masks = demo_videos.draw_aimless_clip(5, 2, 48)
        assert frames.shape == (16, 48, 48, 3) and frames.dtype == np.uint8
        assert masks.shape == (16, 48, 48) and masks.dtype == np.uint8
        assert 0.01 < (masks / 255).mean() < np.pi / 4 * demo_videos.ACTOR_SIZE[1] ** 2
        again, _ = demo_videos.draw_aimless_clip(5, 2, 48)
        np.testing.assert_array_equal(again, frames)
        assert np.abs(demo_videos.draw_aimless_clip(5, 3, 48)[0].astype(float) - frames).mean() > 10


class TestFiles:
    def test_videos_decode_to_what_the_annotations_say(self, made):
        database = json.loads(made.annotations.read_text())["database"]
        assert Counter(entry["subset"] for entry in database.values()) == {"training": 5, "validation": 3}
        assert sorted(path.stem for path in made.videos.iterdir()) == sorted(database)
        for index, (name, entry) in enumerate(database.items()):
            scene = demo_videos.draw_scene(3, index, SMALL.seconds)
            with av.open(str(made.videos / f"{name}.mp4")) as container:
                stream = container.streams.video[0]
                assert stream.codec_context.name == "h264"
                assert stream.average_rate == scene.fps
                frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            assert len(frames) == entry["frame"] == scene.frames
            assert entry["duration"] == pytest.approx(entry["frame"] / scene.fps, abs=1e-4)
            assert frames[0].shape == (scene.height, scene.width, 3)
            for i in (0, scene.frames // 2, scene.frames - 1):
                error = np.abs(frames[i].astype(float) - demo_videos.render(scene, float(i / scene.fps))).mean()
                assert error < 8  # of 255: what H.264 and its half-resolution colours lose

    def test_annotations_are_within_the_video_and_of_known_classes(self, made):
        classes = made.classes.read_text().split()
        assert classes == sorted(demo_videos.ACTIONS)
        for entry in json.loads(made.annotations.read_text())["database"].values():
            for annotation in entry["annotations"]:
                start, end = annotation["segment"]
                assert 0 <= start < end <= entry["duration"]
                assert annotation["label"] in classes

    def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(self, made, tmp_path):
        again = demo_videos.make_demo(tmp_path / "again", seed=3, spec=SMALL, workers=2)
        assert files_of(again.root) == files_of(made.root)
        other = demo_videos.make_demo(tmp_path / "other", seed=4, spec=SMALL, workers=1)
        assert not set(files_of(other.root).values()) & set(files_of(made.root).values()) - {made.classes.read_bytes()}


class TestCache:
    tiny = demo_videos.DemoSpec(training=1, validation=1, seconds=(1.0, 1.5))

    def test_what_is_there_is_used_and_other_parameters_make_it_anew(self, tmp_path):
        root = tmp_path / "demo"
        demo_videos.make_demo(root, spec=self.tiny, workers=1)
        times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
        demo_videos.make_demo(root, spec=self.tiny, workers=1)
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times
        before = files_of(root)
        demo_videos.make_demo(root, seed=1, spec=self.tiny, workers=1)
        assert files_of(root)["stamp.json"] != before["stamp.json"]
        assert files_of(root)["annotations.json"] != before["annotations.json"]
        assert [path.name for path in tmp_path.iterdir()] == ["demo"]

    def test_a_failure_leaves_neither_half_a_data_set_nor_rubbish(self, tmp_path, monkeypatch):
        def fail(*args):
            raise OSError("no space left on device")

        monkeypatch.setattr(demo_videos, "write_video", fail)
        with pytest.raises(OSError, match="no space left"):
            demo_videos.make_demo(tmp_path / "demo", spec=self.tiny, workers=1)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_with_something_else_is_left_alone(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("all my work")
        with pytest.raises(DataError, match="is no demo data set"):
            demo_videos.make_demo(tmp_path, spec=self.tiny, workers=1)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
