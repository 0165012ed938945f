"""`gpuload tune`: what it tries, and what it says."""

import re
from pathlib import Path

import pytest

import gpuload
from gpuload.cli.tune import Setting, settings, tune
from gpuload.core.available import available_cpus
from tests.test_demo import gpuload_command

pytest.importorskip("typer")


@pytest.mark.parametrize("cpus", [1, 2, 3, 16])
def test_settings_differ_and_begin_with_the_default(cpus: int) -> None:
    tried = settings(cpus)
    assert tried[0] == Setting(cpus, 2)
    assert len(set(tried)) == len(tried)
    assert all(setting.threads >= 1 for setting in tried)


def test_each_setting_is_timed_in_each_round(photos: Path, device: str) -> None:
    told: list[str] = []
    options = {"batch_size": 4, "device": device, "rounds": 2, "seconds": 0.01}
    results = tune(gpuload.ImageFolder(photos), gpuload.Augment(size=(16, 16)), report=told.append, **options)
    assert {result.setting for result in results} == set(settings(available_cpus()))
    assert len(told) == 2 * len(results)
    assert [result.images_per_second for result in results] == sorted(
        (result.images_per_second for result in results), reverse=True
    )
    assert all(0 < result.least <= result.images_per_second <= result.greatest for result in results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be"),
        ({"seconds": 0}, "seconds must be above 0, not 0"),
        ({"batch_size": 0}, "batch"),
    ],
)
def test_what_makes_no_sense(photos: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tune(gpuload.ImageFolder(photos), gpuload.Augment(size=(16, 16)), device="cpu", **options)


def test_the_command(photos: Path) -> None:
    arguments = ["tune", str(photos), "--size", "16", "--rounds", "1", "--seconds", "0.01", "--device", "cpu"]
    done = gpuload_command(*arguments, "--batch-size", "4")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^│\s+\d+ │", done.stdout, re.M)) == len(settings(available_cpus()))
    assert "gpuload.Loader(..., threads=" in done.stdout or "leave threads and prefetch out" in done.stdout


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = gpuload_command("tune", str(tmp_path / "nowhere"))
    assert done.returncode != 0
    assert "does not exist" in done.stderr
