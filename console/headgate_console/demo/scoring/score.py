"""Predicts the progression of diabetes after a year, in the units of the data, through init() and run()."""

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
    scaled = model.predict(rows[:, card["columns"]])
    return {"predictions": (scaled * card["std"] + card["mean"]).tolist()}
