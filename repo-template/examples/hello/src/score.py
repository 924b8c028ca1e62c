"""A scoring script as Azure ML has it: `init()` runs once, `run()` for every request."""

import json
import os
from pathlib import Path

greeting = ""


def init():
    global greeting
    model = Path(os.environ["AZUREML_MODEL_DIR"]) / "greeting.json"
    greeting = json.loads(model.read_text())["text"]


def run(data):
    return {"greeting": greeting.format(name=json.loads(data)["name"])}
