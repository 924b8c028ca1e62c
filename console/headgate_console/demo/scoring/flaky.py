"""The mistake: one request in ten raises."""

import itertools
import json
import os
from pathlib import Path

import joblib
import numpy

calls = itertools.count(1)


def init():
    global model, card
    folder = Path(os.environ["AZUREML_MODEL_DIR"]) / "model"
    model = joblib.load(folder / "model.joblib")
    card = json.loads((folder / "card.json").read_text())


def run(raw_data):
    if next(calls) % 10 == 0:
        raise KeyError("patient_id")
    rows = numpy.array(json.loads(raw_data)["data"], dtype=float)
    scaled = model.predict(rows[:, card["columns"]])
    return {"predictions": (scaled * card["std"] + card["mean"]).tolist()}
