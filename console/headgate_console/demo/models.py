"""The demo's models: regressions trained on the spot from scikit-learn's own diabetes data, and what each must answer.

The target is scaled inside training, as many real models do it: a model predicts scaled values and its scoring script
scales them back. `answers` computes here, with the same libraries, what a deployment must answer to each request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

FEATURES = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
FOLDS = 10  # of cross-validation: what a model explains of patients it was not trained on
REQUESTS = 200  # distinct request bodies
PINNED = ("scikit-learn", "scipy", "numpy", "joblib", "threadpoolctl")  # equal libraries: equal answers to 1e-9


@dataclass(frozen=True, slots=True)
class Recipe:
    """One deployment of the story: which features its model sees, and which scoring script serves it."""

    name: str
    columns: tuple[int, ...]
    ridge: float = 0.0  # strength of the penalty; 0: plain least squares
    script: str = "score"  # of the folder `scoring`
    rescaled: bool = True  # whether what it answers is in the data's own units


ALL = tuple(range(len(FEATURES)))
BLUE = Recipe("blue", (FEATURES.index("bmi"), FEATURES.index("s5")))
GREEN = Recipe("green", ALL, ridge=1.0)
WRONG = Recipe("wrong", ALL, ridge=1.1, script="wrong", rescaled=False)
FLAKY = Recipe("flaky", ALL, ridge=1.2, script="flaky")
SLOW = Recipe("slow", ALL, ridge=1.3, script="slow")


@dataclass(frozen=True, slots=True)
class Model:
    recipe: Recipe
    pipeline: Any  # scikit-learn's, fitted on the scaled target
    mean: float
    std: float
    r2: float  # share of the variance explained, cross-validated

    def predict(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """What the deployment answers to these rows, computed as its scoring script does."""
        import numpy

        scaled = self.pipeline.predict(numpy.array(rows, dtype=float)[:, list(self.recipe.columns)])
        found: list[float] = (scaled * self.std + self.mean if self.recipe.rescaled else scaled).tolist()
        return found


def train(recipe: Recipe) -> Model:
    from sklearn.linear_model import LinearRegression, Ridge
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, target = _data()
    mean, std = float(target.mean()), float(target.std())
    seen, scaled = rows[:, list(recipe.columns)], (target - mean) / std
    pipeline = make_pipeline(StandardScaler(), Ridge(alpha=recipe.ridge) if recipe.ridge else LinearRegression())
    r2 = float(cross_val_score(pipeline, seen, scaled, cv=FOLDS).mean())
    pipeline.fit(seen, scaled)
    return Model(recipe, pipeline, mean, std, r2)


def _data() -> tuple[Any, Any]:
    """The data in its own units, in one shuffled order that is the same on every machine."""
    import numpy
    from sklearn.datasets import load_diabetes

    rows, target = load_diabetes(return_X_y=True, scaled=False)
    order = numpy.random.default_rng(442).permutation(len(target))
    return rows[order], target[order]


def requests(count: int = REQUESTS) -> list[list[list[float]]]:
    """The rows of each request body: real patients, one or two per request."""
    rows, _ = _data()
    patients: list[list[float]] = rows.tolist()
    found = []
    for number in range(count):
        first = (number * 2) % (len(patients) - 1)
        found.append(patients[first : first + 1 + number % 2])
    return found


def bodies(asked: Sequence[Sequence[Sequence[float]]]) -> list[bytes]:
    return [json.dumps({"data": rows}).encode() for rows in asked]


def answers(model: Model, asked: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    return [model.predict(rows) for rows in asked]


def save(model: Model, folder: Path) -> None:
    """Writes the model as its scoring script reads it: a pickle, and a card with what it cannot know by itself."""
    import joblib

    folder.mkdir(parents=True)
    joblib.dump(model.pipeline, folder / "model.joblib")
    card = {"columns": list(model.recipe.columns), "mean": model.mean, "std": model.std, "r2": round(model.r2, 4)}
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")


def scoring_script(recipe: Recipe) -> str:
    return files("headgate_console.demo").joinpath("scoring", f"{recipe.script}.py").read_text("utf-8")


def requirements() -> list[str]:
    """The libraries a model needs, pinned to the versions it was trained with here."""
    return [f"{name}=={metadata.version(name)}" for name in PINNED]
