"""Checks whether the TFDS data of a task is on this machine, and how to prepare it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import gin
import pytest
import seqio
import tensorflow_datasets as tfds
import tfds_examples
from tensorflow_datasets.core.utils import gcs_utils
from tiny_run import TinyRun

import tasks
from mtf_switch import network
from mtf_switch.errors import UserError
from tasks import tfds_data
from tasks.tfds_data import Readiness


def test_glue_in_the_version_that_t5_names_is_read_if_it_is_there(
    tfds_dir: Path, tmp_path: Path
) -> None:
    """The pinned TFDS can make 2.0.0 only."""
    old = tmp_path / "glue" / "cola" / "1.0.0"
    shutil.copytree(tfds_dir / "glue" / "cola" / "2.0.0", old)
    info = json.loads((old / "dataset_info.json").read_text())
    (old / "dataset_info.json").write_text(json.dumps({**info, "version": "1.0.0"}))
    for folder, version in ((tmp_path, "1.0.0"), (tfds_dir, "2.0.0"), (tmp_path, "1.0.0")):
        gin.clear_config()
        gin.bind_parameter("tfds_data.data_dir", str(folder))
        tasks.register()
        task = seqio.TaskRegistry.get("glue_cola_v002")
        assert tfds_data.resolve_dataset_name(task) == f"glue/cola:{version}"
        tfds_data.check_prepared("glue_cola_v002")
        assert task.source.tfds_dataset.data_dir == str(folder)
        assert task.num_input_examples("validation") > 0


def test_missing_data_is_reported_with_advice(tmp_path: Path) -> None:
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    with pytest.raises(UserError) as raised:
        tfds_data.check_prepared("glue_v002_proportional")
    assert re.fullmatch(
        rf"glue/\w+:2.0.0 is not prepared in {tmp_path}\. Prepare it: run_switch.py prepare "
        rf"--task=glue_v002_proportional --data_dir={tmp_path}",
        str(raised.value),
    )


def test_a_manual_step_and_a_beam_job_are_reported(tmp_path: Path) -> None:
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    with pytest.raises(UserError, match="xsum-extracts-from-downloads"):
        tfds_data.check_prepared("xsum")
    with pytest.raises(UserError, match="A Beam job on a cluster makes it"):
        tfds_data.check_prepared("c4_v220_span_corruption")


@pytest.mark.parametrize("lost", ["dataset_info.json", "xsum-train.tfrecord-00000-of-00001"])
def test_half_prepared_data_is_distinguished(tfds_dir: Path, tmp_path: Path, lost: str) -> None:
    shutil.copytree(tfds_dir / "xsum", tmp_path / "xsum")
    (tmp_path / "xsum" / "1.1.0" / lost).unlink()
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    assert tfds_data.inspect_dataset("xsum:1.1.0").readiness is Readiness.INCOMPLETE
    with pytest.raises(UserError) as raised:
        tfds_data.check_prepared("xsum")
    assert "xsum:1.1.0 is half prepared" in str(raised.value)
    assert lost in str(raised.value)
    assert f"Remove {tmp_path}/xsum/1.1.0, then prepare it: run_switch.py" in str(raised.value)
    with pytest.raises(UserError, match="Remove "):
        tfds_data.prepare_datasets("xsum")


def test_a_data_set_that_this_tfds_does_not_have_is_reported(tmp_path: Path) -> None:
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    with pytest.raises(UserError, match=r"does not have c4/en\.realnewslike:2\.2\.0"):
        tfds_data.check_prepared("c4_realnewslike_v020_unsupervised")


def test_prepared_before_and_after_seqio_looked(tfds_dir: Path, tmp_path: Path) -> None:
    """seqio keeps the builder that it made before the data existed."""
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    task = seqio.TaskRegistry.get("xsum")
    assert not task.source.tfds_dataset.info.splits
    tfds_examples.write_dataset("xsum:1.1.0", tmp_path)
    tfds_data.check_prepared("xsum")
    assert task.num_input_examples("train") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tasks", "--data_dir=/nowhere/at/all"), "There is no folder /nowhere/at/all"),
        (("tasks", "*supergleu*"), "No task or mixture matches '*supergleu*'"),
        (("prepare", "--task=xsun"), "The nearest names are: xsum"),
    ],
)
def test_mistakes_get_one_message(tiny: TinyRun, arguments: tuple, message: str) -> None:
    outcome = tiny.command(*arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_prepare_makes_what_is_missing(tiny: TinyRun, tmp_path: Path, monkeypatch) -> None:
    made = []

    def write(name: str) -> None:
        made.append(name)
        tfds_examples.write_dataset(name, tmp_path / "new")

    monkeypatch.setattr(tfds_data, "_download_and_prepare", write)
    arguments = ("prepare", "--task=anli", f"--data_dir={tmp_path / 'new'}")
    outcome = tiny.command(*arguments)
    assert outcome.code == 0, outcome.err
    assert made == ["anli/r1:0.1.0", "anli/r2:0.1.0", "anli/r3:0.1.0"]
    again = tiny.command(*arguments)
    assert (again.code, again.out) == (0, "anli is ready.\n")
    assert len(made) == 3


def test_a_download_that_fails_is_explained(tmp_path: Path, monkeypatch) -> None:
    def no_network(self, **_):
        raise ConnectionError("Name or service not known\nmore")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    monkeypatch.setattr(
        network, "find_reachable", lambda urls: set(map(network.get_server, urls))
    )
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    with pytest.raises(UserError) as raised:
        tfds_data.prepare_datasets("web_questions_open")
    assert str(raised.value) == (
        f"TFDS could not prepare web_questions:1.0.0 in {tmp_path} (ConnectionError: Name or "
        "service not known)."
    )


def test_without_a_network_prepare_ends_with_a_sentence(
    tiny: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TFDS itself tried for three and a half minutes, with its progress bar at "0 url"."""
    asked = []
    monkeypatch.setattr(network, "find_reachable", lambda urls: asked.append(urls) or set())
    monkeypatch.delattr(tfds.core.DatasetBuilder, "download_and_prepare")
    outcome = tiny.command("prepare", "--task=web_questions_open", f"--data_dir={tmp_path}")
    assert (outcome.code, outcome.out) == (1, "")
    assert (
        "this machine gets no answer from https://worksheets.codalab.org within" in outcome.err
    )
    assert "Traceback" not in outcome.err
    assert network.GOOGLE_CLOUD_STORAGE in asked[0]


def test_without_its_bucket_tfds_is_kept_from_asking_it(tmp_path: Path, monkeypatch) -> None:
    disabled = []

    def prepare(self, **_) -> None:
        disabled.append(gcs_utils._is_gcs_disabled)

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", prepare)
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    for answers in ({"https://worksheets.codalab.org"}, {network.GOOGLE_CLOUD_STORAGE}):
        monkeypatch.setattr(network, "find_reachable", lambda urls, a=answers: a)
        tfds_data.prepare_datasets("web_questions_open")
    assert disabled == [True, False]
    assert not gcs_utils._is_gcs_disabled
