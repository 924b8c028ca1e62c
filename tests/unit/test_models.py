"""The demo's models are what the story says of them: better, wrong, or right but broken elsewhere."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from headgate_console.demo import models

pytest.importorskip("sklearn")


class Request:
    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        self.headers = headers
        self._body = body

    def get_data(self) -> bytes:
        return self._body


@pytest.fixture(scope="module")
def trained() -> dict[str, models.Model]:
    recipes = (models.BLUE, models.GREEN, models.WRONG, models.FLAKY, models.SLOW)
    return {recipe.name: models.train(recipe) for recipe in recipes}


def served(model: models.Model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The deployment's scoring script, started on its saved model as the inference server does it."""
    models.save(model, folder / "model")
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(folder))
    request_module = types.ModuleType("azureml_inference_server_http.api.aml_request")
    request_module.rawhttp = lambda run: run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "azureml_inference_server_http.api.aml_request", request_module)
    script = types.ModuleType("score")
    exec(models.scoring_script(model.recipe), script.__dict__)
    script.init()
    return script


def test_the_better_model_is_better_on_patients_it_has_not_seen(trained: dict[str, models.Model]) -> None:
    assert trained["green"].r2 > trained["blue"].r2 + 0.02


@pytest.mark.parametrize("name", ["blue", "green", "wrong", "flaky"])
def test_a_scoring_script_answers_what_is_predicted_here(
    name: str, trained: dict[str, models.Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = served(trained[name], tmp_path, monkeypatch)
    asked = models.requests(9)
    expected = models.answers(trained[name], asked)
    for body, answer in zip(models.bodies(asked), expected, strict=True):
        assert script.run(body.decode())["predictions"] == pytest.approx(answer, rel=1e-12)


def test_the_flaky_model_fails_one_request_in_ten(
    trained: dict[str, models.Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = served(trained["flaky"], tmp_path, monkeypatch)
    body = models.bodies(models.requests(1))[0].decode()
    failed = 0
    for _ in range(100):
        try:
            script.run(body)
        except KeyError:
            failed += 1
    assert failed == 10


def test_the_slow_model_waits_on_every_second_live_request_and_never_on_a_copy(
    trained: dict[str, models.Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = served(trained["slow"], tmp_path, monkeypatch)
    waits: list[float] = []
    monkeypatch.setattr(script.time, "sleep", waits.append)
    body = models.bodies(models.requests(1))[0]
    for _ in range(10):
        script.run(Request(body, {"headgate-mirror": "1"}))
    assert waits == []
    for _ in range(10):
        script.run(Request(body, {}))
    assert waits == [script.AUDIT_S] * 5


def test_tolerances_of_the_demo_let_the_better_model_pass_and_the_wrong_one_fail(
    trained: dict[str, models.Model],
) -> None:
    asked = models.requests()
    share = {name: _share_beyond(0.5, trained["blue"], trained[name], asked) for name in ("green", "wrong")}
    assert share["green"] < 0.05
    assert share["wrong"] == 1.0


def _share_beyond(rel: float, stable: models.Model, candidate: models.Model, asked: Any) -> float:
    pairs = zip(models.answers(stable, asked), models.answers(candidate, asked), strict=True)
    beyond = [any(abs(a - b) > rel * abs(a) for a, b in zip(old, new, strict=True)) for old, new in pairs]
    return sum(beyond) / len(beyond)


def test_saved_card_says_what_the_pickle_cannot(trained: dict[str, models.Model], tmp_path: Path) -> None:
    models.save(trained["blue"], tmp_path / "model")
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["columns"] == [2, 8]
    assert card["std"] > 1


def test_requirements_are_pinned() -> None:
    assert all("==" in line for line in models.requirements())
