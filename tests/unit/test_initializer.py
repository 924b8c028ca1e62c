"""What fetches a replica's model before its server starts, as the process that a pod runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from headgate import codec
from headgate.process import CatalogueSource
from headgate.target import ModelPin, Order
from headgate.workload import NOT_SET_UP
from headgate_kit.catalogue import open_catalogue


def fetched(order: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HEADGATE_FETCH": codec.canonical(order).decode()}
    command = [sys.executable, "-P", "-m", "headgate_pipelines.initializer"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def pinned(tmp_path: Path) -> tuple[ModelPin, CatalogueSource]:
    (tmp_path / "models/churn/7").mkdir(parents=True)
    (tmp_path / "models/churn/7/m.pkl").write_text("weights")
    source = CatalogueSource("folder", str(tmp_path / "models"))
    return open_catalogue("lake", source, tmp_path).pin("azureml:churn:7"), source


def test_a_model_is_there_whole_and_a_second_life_fetches_nothing(tmp_path: Path) -> None:
    pin, source = pinned(tmp_path)
    order = Order(pin, source, str(tmp_path / "replica/models/churn/7"))
    first = fetched(order)
    assert first.returncode == 0, first.stderr
    assert "churn:7 from" in first.stdout
    assert (tmp_path / "replica/models/churn/7/m.pkl").read_text() == "weights"
    (tmp_path / "models/churn/7/m.pkl").unlink()
    assert fetched(order).returncode == 0


def test_what_cannot_be_had_ends_with_why_in_the_last_line(tmp_path: Path) -> None:
    pin, source = pinned(tmp_path)
    (tmp_path / "models/churn/7/m.pkl").write_text("other weights")
    into = tmp_path / "replica/models/churn/7"
    ended = fetched(Order(pin, source, str(into)))
    assert ended.returncode == 1
    assert "not what it was when it was pinned" in ended.stderr.splitlines()[-1]
    gone = fetched(Order(pin, None, str(into)))
    assert "headgate.yml has no catalogue `lake` any more" in gone.stderr.splitlines()[-1]
    assert not into.exists()


def test_what_the_installation_lacks_ends_with_another_code(tmp_path: Path) -> None:
    pin, _ = pinned(tmp_path)
    unknown = CatalogueSource("attic", str(tmp_path / "models"))
    ended = fetched(Order(pin, unknown, str(tmp_path / "replica/models/churn/7")))
    assert (ended.returncode, "there is no kind `attic`" in ended.stderr.splitlines()[-1]) == (NOT_SET_UP, True)
    assert fetched({"into": 3}).returncode == NOT_SET_UP, "an order that this image cannot read"


def test_a_fetch_needs_nothing_that_a_build_s_image_lacks() -> None:
    lacks = ("yaml", "ruamel", "git", "hera", "kubernetes", "click", "rich", "jsonschema")
    program = f"""
import sys
sys.modules.update(dict.fromkeys({lacks!r}))
from headgate import plugins
loaded = plugins.load("headgate.catalogue")
print(*sorted(loaded.adapters), *loaded.findings)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["folder", "mlflow", "oci", "s3"]
