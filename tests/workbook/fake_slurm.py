"""What the SLURM executor calls, on this machine: ``fake_slurm.py FOLDER sbatch --parsable …``.

A job is a shell in the background and a folder ``FOLDER/<number>``: ``submitted`` holds sbatch's
arguments, ``steps`` srun's, ``state`` what sacct says. No queue, no limits and no nodes.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def sbatch(folder: Path, arguments: list[str]) -> None:
    """Starts a job and prints its number."""
    number = str(1000 + len(list(folder.iterdir())))
    job = folder / number
    job.mkdir()
    (job / "submitted").write_text(json.dumps(arguments))
    (job / "name").write_text(arguments[arguments.index("--job-name") + 1])
    (job / "state").write_text("RUNNING")
    (script,) = [word.removeprefix("--wrap=") for word in arguments if word.startswith("--wrap=")]
    state = f"&& echo COMPLETED > {job}/state || echo FAILED > {job}/state"
    log = arguments[arguments.index("--output") + 1].replace("%j", number)
    with open(log, "w") as output:
        shell = subprocess.Popen(
            ["/bin/sh", "-c", f"({script}) {state}"],
            cwd=arguments[arguments.index("-D") + 1],
            env=os.environ | {"SLURM_JOB_ID": number},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    (job / "shell").write_text(str(shell.pid))
    print(number)


def srun(folder: Path, arguments: list[str]) -> None:
    """Runs a step of the job, here and now."""
    with (folder / os.environ["SLURM_JOB_ID"] / "steps").open("a") as steps:
        steps.write(json.dumps(arguments) + "\n")
    command = next(at for at, word in enumerate(arguments) if not word.startswith("-"))
    os.execvp(arguments[command], arguments[command:])


def sacct(folder: Path, arguments: list[str]) -> None:
    """The states of the jobs of a name; no reason why a step failed."""
    if "--name" in arguments:
        name = arguments[arguments.index("--name") + 1]
        for job in folder.iterdir():
            if (job / "name").read_text() == name:
                print(f"{job.name}|{(job / 'state').read_text().strip()}")


def scancel(folder: Path, arguments: list[str]) -> None:
    """Ends jobs, with all that they started."""
    for number in filter(str.isdigit, arguments):
        os.killpg(int((folder / number / "shell").read_text()), signal.SIGTERM)
        (folder / number / "state").write_text("CANCELLED")


def scontrol(folder: Path, arguments: list[str]) -> None:
    print("MaxArraySize = 1001\nMinJobAge = 300 sec")


def sinfo(folder: Path, arguments: list[str]) -> None:
    print("PARTITION\ncpu\ngpu*")


def sacctmgr(folder: Path, arguments: list[str]) -> None:
    print("compression")


def squeue(folder: Path, arguments: list[str]) -> None:
    print()


COMMANDS = {
    f.__name__: f for f in (sbatch, srun, sacct, scancel, scontrol, sinfo, sacctmgr, squeue)
}

if __name__ == "__main__":
    _, folder, command, *arguments = sys.argv
    COMMANDS[command](Path(folder), arguments)
