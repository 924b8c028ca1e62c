"""The mistake: the model was trained on a scaled target, and what it predicts is not scaled back."""

import json
import os
from pathlib import Path

import joblib
import numpy


def init():
    global model, card
    folder = Path(os.environ["AZUREML_MODEL_DIR"]) / "model"
    model = joblib.load(folder / "model.joblib")
    card = json.loads((folder / "card.json").read_text())


def run(raw_data):
    rows = numpy.array(json.loads(raw_data)["data"], dtype=float)
    return {"predictions": model.predict(rows[:, card["columns"]]).tolist()}
