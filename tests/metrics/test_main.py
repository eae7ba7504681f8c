"""The command line, in its own process: tables, files, exit status."""

import csv
import json
import subprocess
import sys

import pytest

from tests.golden.compare import HERE

TRUTH = {"database": {"v": {"subset": "val", "duration": 9, "annotations": [{"segment": [0, 2], "label": "Jump"}]}}}
GOOD = {"segment": [0, 2], "label": "Jump", "score": 0.9}


def metrics(*arguments, cwd):
    command = [sys.executable, "-m", "tadjax.metrics", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={"PYTHONPATH": str(HERE.parents[1])})


@pytest.fixture
def folder(tmp_path):
    def write(name, content):
        (tmp_path / name).write_text(json.dumps(content))

    write("truth.json", TRUTH)
    write("good.json", {"results": {"v": [GOOD]}})
    write("nan.json", {"results": {"v": [GOOD, {**GOOD, "score": float("nan")}]}})
    write("other.json", {"results": {"x": [GOOD]}})
    write("renamed.json", {"results": {"v": [{**GOOD, "label": "jumping"}]}})
    write("surrogate.json", {"results": {"v": [GOOD, {**GOOD, "label": "\ud83d"}]}})
    write("two.json", {"database": {**TRUTH["database"], "w": {"subset": "train", "annotations": []}}})
    write("nothing.json", {"results": {"v": []}})
    write("malformed.json", {"results": {"v": [{"segment": [0, 2]}]}})
    write("both.json", {"database": {**TRUTH["database"], "w": TRUTH["database"]["v"]}})
    write("blocked.json", ["w"])  # as OpenTAD takes it
    (tmp_path / "blocked.txt").write_text("w\n")  # as tadjax.prepare writes it
    return tmp_path


def test_reference_predictions(tmp_path):
    run = metrics(
        HERE / "map_pred.json.gz", HERE / "map_gt.json.gz", "--json", "m.json", "--csv", "m.csv", cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert ["mAP,", "%", "63.34", "63.21", "62.81", "61.52", "57.90", "61.76"] in map(
        str.split, run.stdout.splitlines()
    )
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["average_mAP"] == pytest.approx(61.75805714503598, abs=1e-9)
    rows = list(csv.DictReader((tmp_path / "m.csv").open()))
    ap = {(row["class"], row["tiou"]): float(row["percent"]) for row in rows if row["metric"] == "AP"}
    assert len(ap) == 20 * 6
    assert ap["PoleVault", "0.7"] == pytest.approx(content["AP"]["PoleVault"]["0.7"])


def test_rules_and_thresholds(tmp_path):
    files = HERE / "map_pred.json.gz", HERE / "map_gt.json.gz"
    run = metrics(*files, "--rules", "activitynet", "--brief", "--json", "m.json", cwd=tmp_path)
    assert run.returncode == 0 and "rules activitynet" in run.stdout
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["average_mAP"] == pytest.approx(47.756145639236547, abs=1e-9) and len(content["mAP"]) == 10
    run = metrics(*files, "--tiou", "0.5:0.7:0.1", "--brief", "--json", "m.json", cwd=tmp_path)
    assert list(json.loads((tmp_path / "m.json").read_text())["mAP"]) == ["0.5", "0.6", "0.7"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("good.json truth.json", 0, "100.00"),
        ("nothing.json truth.json", 0, "0.00"),
        ("nan.json truth.json", 1, "1 entries whose score or times are not finite"),
        ("other.json truth.json", 2, "another data set"),
        ("other.json two.json", 2, "another data set"),
        ("surrogate.json truth.json", 0, "(\\ud83d)"),
        ("renamed.json truth.json", 1, "no prediction remains; the ground truth's classes are Jump"),
        ("good.json truth.json --json no/m.json", 2, "no/m.json: cannot be written"),
        ("malformed.json truth.json", 2, 'video v, entry 0 has no "label"'),
        ("missing.json truth.json", 2, "no such file"),
        ("good.json good.json", 2, "no ground truth"),
        ("other.json good.json truth.json", 1, "100.00"),  # the rest goes on
        ("good.json truth.json --tiou half", 2, "--tiou half"),
        ("good.json truth.json --subset train", 2, "no subset 'train'"),
        ("good.json truth.json --blocked truth.json", 2, "not a JSON list"),
        ("good.json both.json --blocked blocked.txt", 0, "1 instances of 1 classes in 1 videos"),
        ("good.json both.json --blocked blocked.json", 0, "1 instances of 1 classes in 1 videos"),
        ("good.json both.json --blocked none.txt", 2, "none.txt: the file of videos cannot be read: No such file"),
        ("good.json truth.json --diagnose --figure x.bmp", 2, ".png, .svg or .pdf"),
    ],
)
def test_exit_status_and_sentence(folder, arguments, status, said):
    run = metrics(*arguments.split(), cwd=folder)
    assert run.returncode == status, run.stdout + run.stderr
    assert said in run.stdout + run.stderr and "Traceback" not in run.stderr


def test_a_list_of_blocked_videos_may_come_from_any_editor_and_says_what_it_does_not_know(folder):
    """screenplain 5, ActivityNet 2: marks, line ends, spaces, extensions, case; other names are named."""
    for content in (b"\xef\xbb\xbfw\r\n", "w \n".encode("utf-16"), b" w\n\n", b"w.MP4\n", b"W\n"):
        (folder / "list.txt").write_bytes(content)
        run = metrics("good.json", "both.json", "--blocked", "list.txt", cwd=folder)
        assert "1 instances of 1 classes in 1 videos" in run.stdout and run.stderr == "", content
    (folder / "list.txt").write_text("w\nnone.mp4\nc\n")
    run = metrics("good.json", "both.json", "--blocked", "list.txt", cwd=folder)
    assert run.returncode == 0
    assert run.stderr == "list.txt: 2 names are of no video of both.json: c, none.mp4\n"


def test_a_name_with_dollars_is_no_mathematics(folder):
    """matplotlib 20266."""
    (folder / "res $_^$.json").write_text((folder / "good.json").read_text())
    run = metrics("res $_^$.json", "truth.json", "--diagnose", "--figure", "d.svg", cwd=folder)
    assert run.returncode == 0, run.stderr
    assert "res $_^$.json: average mAP_N 100.0 %" in (folder / "d.svg").read_text()


def test_diagnose_two_runs(folder):
    run = metrics(
        "good.json", "nothing.json", "truth.json", "--diagnose", "--figure", "d.svg", "--json", "d.json", cwd=folder
    )
    assert run.returncode == 0, run.stderr
    assert (folder / "d.svg").read_text().count(">False positive profile<") == 2
    first, second = json.loads((folder / "d.json").read_text())
    assert first["diagnosis"]["average_mAP_N"] == 100 and second["diagnosis"]["average_mAP_N"] == 0


def test_one_of_two_files_that_fails_takes_nothing_from_the_other(folder):
    """The list has one entry; where only the diagnosis cannot be made, the numbers are there."""
    files = ("other.json", "good.json", "truth.json", "--json", "m.json")
    assert metrics(*files, cwd=folder).returncode == 1
    assert [entry["average_mAP"] for entry in json.loads((folder / "m.json").read_text())] == [100]
    outlasting = {"v": {**TRUTH["database"]["v"], "duration": 1}}
    (folder / "short.json").write_text(json.dumps({"database": outlasting}))
    run = metrics("good.json", "short.json", "--diagnose", cwd=folder)
    assert run.returncode == 1 and "100.00" in run.stdout and "outlasts its video" in run.stderr


def test_neither_jax_nor_matplotlib_is_loaded(folder):
    code = "import sys; from tadjax.metrics.__main__ import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", code, "good.json", "truth.json"]
    environment = {"PYTHONPATH": str(HERE.parents[1])}
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert "numpy" in run.stdout.split() and not {"jax", "matplotlib"} & set(run.stdout.split())
