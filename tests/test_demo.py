"""``asyncload demo``, which is what README has a newcomer run first."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from asyncload import cli

WAYS = ("asyncload", "asyncload_background", "keras")


def test_measures_all_ways_and_compares_what_they_loaded() -> None:
    done = CliRunner().invoke(cli.app, ["demo", "--model", "MobileNetV3Small", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["outputs_equal"]
    assert report["weights_equal"]
    assert report["nbytes"] > 10 << 20
    for way in WAYS:
        measured = report[way]
        assert len(measured["load_seconds"]) == 3
        assert 0 < min(measured["load_seconds"]) <= max(measured["load_seconds"])
        assert measured["requests_answered"] > 0
        assert measured["loop_stall_ms"]["p99"] <= measured["loop_stall_ms"]["max"]
    assert report["idle"]["requests_answered"] > 0
    assert report["cpus_busy"] > 0


def test_an_unknown_model_is_an_error() -> None:
    done = CliRunner().invoke(cli.app, ["demo", "--model", "NoSuchNet"])
    assert done.exit_code != 0
    assert "NoSuchNet" in done.output
