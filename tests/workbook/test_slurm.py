"""The batch on a cluster: what its jobs ask for, and the real executor on commands of our own.

The commands are those of ``fake_slurm.py``, the catalogue is invented, the rest is what a user has.
"""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lib import paths

PROFILE = paths.ROOT / "profiles" / "slurm"
FAKE = Path(__file__).with_name("fake_slurm.py")
COMMANDS = ("sbatch", "srun", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr", "squeue")

with_executor = pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason="the executor is optional: pip install -r profiles/slurm/requirements.txt",
)

#: An invented catalogue: hours on one GPU, and the run that is needed. `a` is done, and so no
#: longer missing, when the job of `b+0.5` reads the workflow.
RUNS = {"a": (0.5, None), "b+0.5": (0.5, "a"), "flaky": (2.5, None), "long": (50, None)}

#: One of short runs.
SHORT = {"a": (0.001, None), "b": (0.001, "a"), "flaky": (0.001, None), "z": (0.001, None)}

#: The library of such a catalogue: runs are done in a moment, but `flaky` fails the first time.
LIBRARY = """
import json, os, sys
from itertools import takewhile
from pathlib import Path

def folder(id):
    return "older-name-a" if id == "a" and Path("renamed").exists() else id

def result(id):
    return Path("results/imagenet/runs", folder(id), "result.json")

runs = json.loads(Path("runs.json").read_text())
if sys.argv[1] == "list":
    print(json.dumps([
        dict(id=id, folder=folder(id), parent=need, like=None, control=None, priority=1, gpu=False,
             status="done" if result(id).exists() else "missing",
             seconds=dict(cpu=3600 * hours, cuda=3600 * hours))
        for id, (hours, need) in runs.items()
    ]))
    sys.exit()
ids = list(takewhile(lambda word: not word.startswith("--"), sys.argv[2:]))
rank = os.environ.get("RANK", "0")
print("process", rank, *sys.argv[2 + len(ids):])
for id in ids:
    need = runs[id][1]
    assert need is None or result(need).exists()
    if id == "flaky" and not Path("failed").exists():
        Path("failed").touch()
        sys.exit("failed   flaky: the first time")
    if rank == "0" and not result(id).exists():
        result(id).write_text(f"made beside {len(ids) - 1}")
"""


@pytest.fixture
def place(tmp_path):
    """A folder with the workflow, its profile, that library and the commands of a cluster."""
    for name in ("Snakefile", "profiles"):
        (tmp_path / name).symlink_to(paths.ROOT / name)
    for name in ("bin", "jobs", "lib/workbook", "notebooks"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("lib", "lib/workbook"):
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "lib/__main__.py").write_text(LIBRARY)
    (tmp_path / "runs.json").write_text(json.dumps(RUNS))
    (tmp_path / "lib/paths.py").write_text(
        "from pathlib import Path\n\ndef results(dataset):\n    return Path('results', dataset)\n\n"
        "def checkpoints():\n    return Path('results/checkpoints')\n"
    )
    for name in ("workbook/calibration.py", "atomic.py"):
        (tmp_path / "lib" / name).symlink_to(paths.ROOT / "lib" / name)
    for name in COMMANDS:
        command = tmp_path / "bin" / name
        call = shlex.join([sys.executable, str(FAKE), str(tmp_path / "jobs"), name])
        command.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        command.chmod(0o755)
    return tmp_path


def batch(place, options):
    """What Snakemake prints in that place; it has to succeed."""
    environment = os.environ | {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(place),
        "WORKBOOK_RESULTS": "results",
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *options.split()],
        cwd=place,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# ------------------------------------------------------------------------- without the executor


def test_the_profile_holds_options_that_snakemake_knows():
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    said = subprocess.run(
        [sys.executable, "-m", "snakemake", "--help"], capture_output=True, text=True
    ).stdout
    known = set(re.findall(r"--([a-z][a-z-]+)", said))
    assert profile.keys() - {"slurm-requeue"} <= known
    rules = re.findall(r"^ *rule (\w+):", (paths.ROOT / "Snakefile").read_text(), re.MULTILINE)
    assert profile["set-resources"].keys() <= set(rules)
    settings = yaml.safe_load((PROFILE / profile["configfile"]).read_text())
    read = re.findall(r'config\.get\("(\w+)"', (paths.ROOT / "Snakefile").read_text())
    assert settings.keys() == set(read) - {"dataset"}


def test_a_dry_run_is_a_line_a_job_with_its_resources(place):
    """By the command on the page, without the executor, which may not be there."""
    page = (PROFILE / "README.md").read_text()
    (command,) = re.findall(r"--config dataset=imagenet -n \\\n +\| (.*)", page)
    settings = "--cores 1 --configfile profiles/slurm/jobs.yaml --config dataset=imagenet"
    said = batch(place, f"{settings} gpus_per_run=8 -n")
    assert "To train: about 54 hours of one GPU" in said
    shown = subprocess.run(["bash", "-c", command], input=said, text=True, stdout=subprocess.PIPE)
    found = {}
    for line in shown.stdout.splitlines():
        (id,) = re.findall(r"id=(\S+)", line)
        found[id] = {name: int(n) for name, n in re.findall(r"\b(mem|gpu|runtime)=(\d+)", line)}
    # twice the estimate and ten minutes; 50 hours are too long for one GPU
    assert found == {
        "a": {"mem": 16, "gpu": 1, "runtime": 70},
        "b+0.5": {"mem": 16, "gpu": 1, "runtime": 70},
        "flaky": {"mem": 16, "gpu": 1, "runtime": 310},
        "long": {"mem": 128, "gpu": 8, "runtime": 760},
    }


def test_no_job_asks_for_more_time_than_there_is_nor_on_cpus_for_gpus(place):
    few = batch(place, "--cores 1 -n --config dataset=imagenet gpus=1 hours=5")
    asked = re.findall(r"gpu=(\d), runtime=(\d+)", few)
    assert sorted(asked) == [("1", "300"), ("1", "300"), ("1", "70"), ("1", "70")]
    none = batch(place, "--cores 1 -n --config dataset=imagenet gpus_per_run=8")
    assert re.findall(r"gpu=(\d)", none) == ["0"] * len(RUNS)


def test_a_job_that_finds_its_run_done_leaves_it_as_it_is(place):
    """SLURM may start a job anew at any moment; the options are those that its jobs have."""
    run = place / "results/imagenet/runs/b+0.5"
    run.mkdir(parents=True)
    (run / "result.json").write_text("made before")
    (place / "renamed").touch()  # `a` since it was done: its folder has the older name
    (place / "results/imagenet/runs/older-name-a").mkdir()
    (place / "results/imagenet/runs/older-name-a/result.json").touch()
    job = "--target-jobs run:id=b+0.5 --allowed-rules run --force --mode remote --no-hooks --nolock"
    batch(place, f"{job} --cores 1 --rerun-triggers mtime --config dataset=imagenet gpus=1")
    assert (run / "result.json").read_text() == "made before"


# ---------------------------------------------------------------------------- with the executor


def on_the_cluster(place, settings=""):
    """What every job asked for and the states it ended in; the batch has to succeed."""
    quick = "--slurm-init-seconds-before-status-checks 8 --latency-wait 5"
    batch(
        place,
        f"--workflow-profile profiles/slurm {quick} --config dataset=imagenet {settings}",
    )
    asked, states = {}, {}
    for job in sorted((place / "jobs").iterdir()):
        words = json.loads((job / "submitted").read_text())
        about = words[words.index("--comment") + 1].removeprefix("rule_run_wildcards_")
        (step,) = map(json.loads, (job / "steps").read_text().splitlines())
        asked[about] = " ".join(words).partition("--wrap")[0], " ".join(step)
        states.setdefault(about, []).append((job / "state").read_text().strip())
    return asked, states


def content(place, file):
    return (place / "results/imagenet" / file).read_text()


@with_executor
def test_runs_are_jobs_of_the_cluster_and_one_that_fails_is_sent_again(place):
    asked, states = on_the_cluster(place, "gpus_per_run=2")
    assert states == {id: ["COMPLETED"] for id in RUNS} | {"flaky": ["FAILED", "COMPLETED"]}
    job, _ = asked["b+0.5"]
    for words in ("-p gpu", "-t 70", "--mem 16000", "--gpus=1", "--cpus-per-gpu=8", "--requeue"):
        assert words in job
    job, step = asked["long"]
    # 25 hours, twice, are more than a day
    for words in ("-t 1440", "--mem 32000", "--gpus=2", "--nodes=1"):
        assert words in job
    assert "--gpus=2" in step
    assert content(place, "logs/a.log") == "process 0 --threads 1 --device cuda:0\n"
    together = {f"process {rank} --threads 1 --device cuda" for rank in (0, 1)}
    assert together <= set(content(place, "logs/long.log").splitlines())
    assert all(content(place, f"runs/{id}/result.json") == "made beside 0" for id in RUNS)


@with_executor
def test_short_runs_are_one_job_that_does_not_lose_what_is_done(place):
    (place / "runs.json").write_text(json.dumps(SHORT))
    asked, states = on_the_cluster(place)
    assert states == {"rule_together": ["FAILED", "COMPLETED"]}
    job, _ = asked["rule_together"]
    assert all(words in job for words in ("-t 11", "--gpus=1", "--cpus-per-task=8"))
    made = {id: content(place, f"runs/{id}/result.json") for id in SHORT}
    first, second = "made beside 3", "made beside 1"
    assert made == {"a": first, "b": first, "flaky": second, "z": second}


def test_paths_with_spaces_are_quoted_in_the_batch():
    commands = re.findall(
        r"^ +shell:\n((?: +\".*\"\n)+)", (paths.ROOT / "Snakefile").read_text(), re.M
    )
    assert len(commands) == 3
    for command in commands:
        found = re.findall(
            r"\{(?:log|output|input\.\w+|params\.unfinished|sys\.executable)[^}]*\}", command
        )
        assert found
        assert all(path.endswith(":q}") for path in found)
