"""Serves the sample's regression to the init() and run() contract: rows in, one number per row out."""

import json
import os

import joblib
import numpy


def init():
    global model
    model = joblib.load(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model", "sklearn_regression_model.pkl"))


def run(raw_data):
    rows = numpy.array(json.loads(raw_data)["data"])
    return model.predict(rows).tolist()
