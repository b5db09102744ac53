"""The first command of the README, cut short."""

from pathlib import Path

import pytest

from clipper.cli import main


def test_the_demo_serves_what_the_models_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    pytest.importorskip("rich")
    picture = tmp_path / "demo.png"
    status = main(["demo", "--seconds", "0.5", "--rate", "100", "--output", str(picture)])
    told = capsys.readouterr().out
    assert status == 0, told
    assert "0 differ" in told
    assert picture.read_bytes().startswith(b"\x89PNG")
