"""What runs the pods of a `KubeServer`: each pod's command as a process of this machine, its end as the pod's status.

One container, variables, Secrets as files, the termination message, an end when the pod is deleted. Paths of the
container that appear in variables are folders of the pod's own here. Schedules nothing, probes nothing, pulls nothing:
an image whose name ends in `/missing` is one that cannot be pulled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from headgate_kit.kube import Cache
from headgate_kit.kube.kinds import POD
from kubeserver import KubeServer, Object


class Kubelet:
    def __init__(self, server: KubeServer, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._cluster = server.cluster()
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.started: list[str] = []  # pods, by name
        self._cache = Cache(self._cluster, POD, on_change=self._changed)
        assert self._cache.start(10)

    def close(self) -> None:
        self._cache.close()
        for process in list(self._running.values()):
            process.kill()
        self._cluster.close()

    def _changed(self, pod: Object, gone: bool) -> None:
        name = pod["metadata"]["name"]
        if gone:
            process = self._running.pop(name, None)
            if process is not None:
                process.terminate()
        elif "status" not in pod:
            self._begin(name, pod)

    def _begin(self, name: str, pod: Object) -> None:
        container = pod["spec"]["containers"][0]
        if container["image"].endswith("/missing"):
            waiting = {"reason": "ErrImagePull", "message": f"{container['image']}: not found"}
            self._status(name, pod, "Pending", {"waiting": waiting})
            return
        folder = self._folder / name
        here = self._mounts(folder, pod)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        for variable in container.get("env") or ():
            environment[variable["name"]] = _moved(variable["value"], here)
        argv = [_moved(word, here) for word in (*container["command"], *(container.get("args") or ()))]
        argv[0] = sys.executable if argv[0] == "python" else argv[0]
        self.started.append(name)
        self._status(name, pod, "Running", {"running": {}})
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(argv, env=environment, cwd=folder, stdout=log, stderr=log)
        self._running[name] = process
        threading.Thread(target=self._wait, args=(name, pod, process, folder), daemon=True).start()

    def _mounts(self, folder: Path, pod: Object) -> dict[str, str]:
        """Paths of the container, longest first -> folders here."""
        container = pod["spec"]["containers"][0]
        sources = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        here = {container.get("terminationMessagePath", "/dev/termination-log"): str(folder / "termination")}
        for mount in container["volumeMounts"]:
            at = folder / "mounts" / mount["name"]
            at.mkdir(parents=True)
            here[mount["mountPath"]] = str(at)
            secret = sources[mount["name"]].get("secret")
            if secret:
                found = self._server.find("secrets", secret["secretName"])
                assert found is not None, f"pod waits for ever: no Secret {secret['secretName']}"
                for key, value in found["stringData"].items():
                    (at / key).write_text(value)
        return dict(sorted(here.items(), key=lambda item: -len(item[0])))

    def _wait(self, name: str, pod: Object, process: subprocess.Popen[bytes], folder: Path) -> None:
        code = process.wait()
        with self._lock:
            if self._running.pop(name, None) is None:
                return  # it was deleted
            message = folder / "termination"
            said = message.read_text() if message.exists() else ""
            if not said and code:
                said = (folder / "log").read_text()[-2_048:]
            ended = {"exitCode": code if code >= 0 else 128 - code, "reason": "Error" if code else "Completed"}
            self._status(name, pod, "Failed" if code else "Succeeded", {"terminated": {**ended, "message": said}})

    def _status(self, name: str, pod: Object, phase: str, state: dict[str, Any]) -> None:
        status = {"phase": phase, "containerStatuses": [{"name": "main", "state": state}]}
        with self._server.lock:
            known = self._server.find("pods", name, pod["metadata"]["namespace"])
            if known is not None:
                self._server.put("v1", "pods", {**known, "status": status}, pod["metadata"]["namespace"])


def _moved(text: str, here: dict[str, str]) -> str:
    for path, folder in here.items():
        if text == path or text.startswith(f"{path}/"):
            return folder + text.removeprefix(path)
    return text
