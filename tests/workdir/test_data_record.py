"""The same command again: what is finished is said to be so, and data that changed is named."""

import json
import shutil

import pytest

from tadjax.data.dataset import Dataset
from tadjax.workdir import data_record
from tests.conftest import make_small_config
from tests.video.numbered_videos import make


@pytest.fixture
def config(small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "data")
    (tmp_path / "run").mkdir()
    return make_small_config(tmp_path / "data")


def test_videos_and_texts_that_changed_are_named(config, tmp_path):
    run, data = tmp_path / "run", tmp_path / "data"
    assert data_record.changes(Dataset(config), run) == [] == data_record.changes(Dataset(config), run)
    annotations = data / "annotations.json"
    annotations.write_bytes(annotations.read_bytes())
    assert data_record.changes(Dataset(config), run) == [], "written anew, with the same content"

    make(data / "videos" / "video1.mp4", 90, rate=10, size=(48, 40))
    content = json.loads(annotations.read_text())
    content["database"]["video2"]["annotations"].pop()
    annotations.write_text(json.dumps(content))
    (line,) = data_record.changes(Dataset(config), run)
    assert line == f"{run}: the data changed since this run began: 2 files, config.data.annotations; video1"
    (data / "videos" / "video1.mp4").unlink()
    (line,) = data_record.changes(Dataset(config), run)
    assert line.startswith(
        f"{run}: the data changed since this run began: {data / 'videos'}: 1 of 5 videos are missing"
    )


def test_a_run_is_finished_with_its_metrics_and_its_last_checkpoint(tmp_path):
    assert data_record.finished(tmp_path) is None
    (tmp_path / "metrics.json").write_text('{"step": 12, "average_mAP": 41.5}')
    assert data_record.finished(tmp_path) is None, "its checkpoints were removed: it begins anew"
    (tmp_path / "checkpoints" / "12").mkdir(parents=True)
    found = data_record.finished(tmp_path)
    assert found == {"average_mAP": 41.5}
    assert "this run is finished with an average mAP of 41.50, and nothing is left to" in data_record.told(
        tmp_path, found
    )
