"""What an op and whoever runs it agree on: exit codes, places, names of environment variables.

Standard library only: both the op, which must start in 40 ms, and the engines read it.
"""

from __future__ import annotations

DONE = 0
NO = 3  # a policy said no: trying again changes nothing
AGAIN = 75  # EX_TEMPFAIL of sysexits.h: not now, or nobody answered
FAILED = 1  # permanent: wrong arguments, no right to ask, a message that can't be read
KILLED = 137  # SIGKILL: out of memory, a lost node; the ledger makes another try safe
STOPPED = 143  # SIGTERM

IMAGE = "headgate/runner:0.1"  # the image of our ops; the local engine runs its `python` as this interpreter
COMMAND = ("python", "-m", "headgate_pipelines.op")
OUTPUTS = "/tmp/outputs"  # where a container leaves its output parameters, one file each

ENV_OUTPUTS = "HEADGATE_OUTPUTS"  # another folder for them: the local engine never writes to the host's /tmp
ENV_TERMINATION = "HEADGATE_TERMINATION"  # file for `{"message": ..., "outputs": {...}}` at the end, in a pod
TERMINATION_LIMIT = 4_096  # bytes a cluster reads of it
ENV_CONTROL = "HEADGATE_CONTROL"  # URL of the control API
ENV_CONTROL_FILE = "HEADGATE_CONTROL_FILE"  # JSON {"url": ...}, read again before each try: a restart may move it
ENV_TOKEN = "HEADGATE_TOKEN"
ENV_TOKEN_FILE = "HEADGATE_TOKEN_FILE"
ENV_DATA = "HEADGATE_DATA"  # the data folder: where build keeps bundles and environments
ENV_BUILDER = "HEADGATE_BUILDER"  # name of the builder's entry point; default: bundle

# The retry every op of ours has. Only a lost pod, a killed op and `AGAIN` are worth another try.
_CODE = "asInt(lastRetry.exitCode)"
TRANSIENT = f'lastRetry.status == "Error" || {_CODE} == {AGAIN} || {_CODE} == {KILLED}'
