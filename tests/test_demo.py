"""The first command of the README, cut short."""

import importlib.util
from pathlib import Path

import pytest

from clipper.cli import main


def _need_the_extra() -> None:
    for name in ("sklearn", "matplotlib", "rich"):
        pytest.importorskip(name)


def test_the_demo_serves_what_the_models_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _need_the_extra()
    picture = tmp_path / "demo.png"
    status = main(["demo", "--seconds", "1", "--rate", "100", "--output", str(picture)])
    told = " ".join(capsys.readouterr().out.split())
    assert status == 0, told
    for text in ("offered, rows/s", "in time, of offered", "p99 of answers", "accuracy", "vote"):
        assert text in told
    assert "shares the machine with the models, not the interpreter" in told
    assert told.count(" 0 differ") == told.count("served answers compared") >= 4
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_wrong_answer_fails_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _need_the_extra()
    from clipper.cli import demo

    deploy = demo._deploy

    def with_a_wrong_reference(engine, data):  # type: ignore[no-untyped-def]
        service = deploy(engine, data)
        service.direct["svm"] += 1
        return service

    monkeypatch.setattr(demo, "_deploy", with_a_wrong_reference)
    picture = tmp_path / "demo.png"
    assert main(["demo", "--seconds", "0.2", "--rate", "100", "--output", str(picture)]) == 1
    assert "svm: " in capsys.readouterr().out


def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["demo"]) == 2
    assert "pip install 'clipper[demo]'" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--rate", "0"], ["--seconds", "nan"], ["--output", "/no/x"]])
def test_an_option_that_cannot_be_used_is_refused(option: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["demo", *option])
    assert refused.value.code == 2
