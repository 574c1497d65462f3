"""The commands: what they leave, and what they say of a mistake."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainpilot.agents import cli
from trainpilot.agents.policy_file import read_metadata
from trainpilot.inner_tasks.catalogue import load_task

ROOT = Path(__file__).parents[1]
SHORT = ["env.decisions=4", "env.micro_batches_per_decision=3"]
#: An evaluation without all that it compares by default.
QUICK = ["method=[]", "references=[adam_default]", "n_workers=0"]
#: Meta-training in seconds: a task and a family, four runs each, four decisions in a run.
TINY = [
    *SHORT,
    "suite=meta_valid",
    "~suite.tasks.photographs_cnn",
    "~suite.tasks.syllables_mlp",
    "~suite.tasks.waves",
    "agent.runs_per_task=4",
    "agent.total_decisions=64",
    "agent.batch_size=32",
    "agent.normalise_by_reference=false",
]


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["trainpilot", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny policy, trained by the installed command."""
    folder = tmp_path_factory.mktemp("trained")
    command = [Path(sys.executable).with_name("trainpilot"), "train", *TINY]
    subprocess.run([*command, f"hydra.run.dir={folder}"], check=True, cwd=folder)
    return folder


def test_train_leaves_a_policy_with_its_story(trained):
    metadata = read_metadata(trained / "policy.safetensors")
    training = metadata["training"]
    assert training["suite"] == "meta_valid"
    assert training["tasks"] == ["bananas_mlp", "trees"]
    assert training["decisions"] == 64
    assert training["config"]["agent"]["total_decisions"] == 64
    assert training["config"]["env"]["start"]["learning_rate_low"] == 1e-5
    assert (trained / "checkpoints" / "latest.zip").is_file()
    assert list((trained / "tensorboard").iterdir())
    assert (trained / ".hydra" / "overrides.yaml").is_file()


def test_evaluate_leaves_results_for_every_controller(trained, run, tmp_path):
    result = run(
        "evaluate",
        f"policy={trained}/policy.safetensors",
        "task=wine_mlp",
        "n_seeds=2",
        *SHORT,
        "hydra.run.dir=out",
    )
    assert result.code == 0, result.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    names = list(results["summary"])
    assert names == [
        *("policy", "sgd", "adam", "adamw", "rmsprop", "cosine", "one_cycle", "step_decay"),
        *("linear", "exponential", "reduce_on_plateau", "shared_fixed", "shared_cosine", "shared"),
        *("shared_muon", "random", "schedule_free", "prodigy", "hypergradient", "swats"),
        *("oracle_fixed", "oracle_cosine", "oracle"),
        *("policy_open_loop", "policy_task_schedule", "policy_shuffled"),
        *("policy_optimizer_only", "policy_no_switching", "policy_no_optimizer"),
    ]
    assert set(results["references"]) == set(results["summary"]["policy"]["speedup"])
    assert len(results["runs"]) == 2 * len(names)
    (wine,) = results["tasks"]
    assert wine["budget"] == 4 * 3 * wine["micro_batch_size"]
    assert results["summary"]["adam"]["speedup"]["adam_default"]["geomean"] == 1.0
    for name in names:
        assert name in result.out
    rows = parquet.read_table(tmp_path / "out" / "decisions.parquet").num_rows
    assert rows == 2 * len(names) * 4
    assert (tmp_path / "out" / "report.md").read_text().startswith("# The policy reaches ")
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f'"name":"{name}"' in page for name in names)
    assert (tmp_path / "out" / "wine_mlp.png").read_bytes().startswith(b"\x89PNG")


def test_the_reference_runs_along_when_it_was_not_asked_for(run, tmp_path):
    result = run(
        "evaluate",
        "task=iris_mlp",
        "controller=[sgd]",
        "n_seeds=1",
        *SHORT,
        *QUICK,
        "hydra.run.dir=out",
    )
    assert result.code == 0, result.err
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())["summary"]) == [
        "sgd",
        "adam",
    ]


def test_deploy_leaves_the_trained_model_and_its_decisions(trained, run, tmp_path):
    result = run(
        "deploy",
        f"policy={trained}/policy.safetensors",
        "task=iris_mlp",
        "seed=3",
        *SHORT,
        "hydra.run.dir=out",
    )
    assert result.code == 0, result.err
    told = json.loads((tmp_path / "out" / "deployment.json").read_text())
    assert told["controller"] == "policy"
    assert told["samples"] == 4 * 3 * 16
    task = load_task("iris_mlp")
    model = task.make_model()
    model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    with torch.no_grad():
        loss = task.loss(model(task.splits.test.inputs), task.splits.test.targets)
    assert told["final_test_loss"] == pytest.approx(loss.item(), rel=1e-5)
    rows = parquet.read_table(tmp_path / "out" / "decisions.parquet").to_pylist()
    assert [row["decision"] for row in rows] == [0, 1, 2, 3]


def test_the_policy_that_ships_deploys_right_after_the_install(run, tmp_path):
    result = run("deploy", "task=wine_mlp", *SHORT, "hydra.run.dir=out")
    assert result.code == 0, result.err
    assert "wine_mlp under policy: 4 decisions" in result.out
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_the_readmes_own_task_runs(run, tmp_path):
    readme = (ROOT / "README.md").read_text()
    code = readme.split("<!-- my_task.py -->\n```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) < 20
    (tmp_path / "my_task.py").write_text(code)
    command = readme.split("<!-- deploy my_task.py -->\n```bash\n")[1].split("```")[0].split()
    assert command[0] == "trainpilot"
    result = run(*command[1:], *SHORT, "hydra.run.dir=out")
    assert result.code == 0, result.err
    assert "moons under policy" in result.out


def test_multirun_makes_a_folder_for_each_job(run, tmp_path):
    result = run(
        "deploy", "--multirun", "task=iris_mlp", "controller=adam,sgd", *SHORT,
        "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert result.code == 0, result.err
    told = [
        json.loads((tmp_path / "sweep" / job / "deployment.json").read_text())["controller"]
        for job in "01"
    ]
    assert told == ["adam", "sgd"]


def test_a_sweeper_is_given_the_mean_return_and_goes_on_after_a_mistake(run, tmp_path):
    (tmp_path / "keeping.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Keep(Callback):\n"
        "    def on_job_end(self, config, job_return, **kwargs):\n"
        "        with open('returned', 'a') as file:\n"
        "            print(job_return.return_value, file=file)\n"
    )
    result = run(
        "train", "--multirun", *TINY, "agent.batch_size=1,8", "hydra.sweep.dir=sweep",
        "+hydra.callbacks.keep._target_=keeping.Keep",
    )  # fmt: skip
    assert result.code == 2
    assert "agent.batch_size must be at least 2" in result.err
    mistaken, learned = map(float, (tmp_path / "returned").read_text().split())
    assert math.isnan(mistaken)
    # Of the two rollouts, which the curves have too.
    events = EventAccumulator(str(tmp_path / "sweep" / "1" / "tensorboard")).Reload()
    first, second = events.Scalars("return/mean_of_tasks")
    assert learned == pytest.approx((first.value + second.value) / 2)


def test_resume_goes_on_from_the_last_checkpoint(run, tmp_path):
    first = run("train", *TINY, "hydra.run.dir=out")
    assert first.code == 0, first.err
    longer = [*TINY, "agent.total_decisions=128", "hydra.run.dir=out", "resume=true"]
    changed = run("train", *longer, "agent.hidden=[8]")
    assert changed.code == 2
    assert "agent.hidden=[64, 64]; given: agent.hidden=[8]" in changed.err
    # The number of workers is no setting of what is learned, and may change.
    second = run("train", *longer, "agent.n_workers=1")
    assert second.code == 0, second.err
    assert "4 inner runs each in 1 worker; " in second.err
    assert "2 tasks: inner runs are trained by C++ of our own" in second.err
    metadata = read_metadata(tmp_path / "out" / "policy.safetensors")
    assert metadata["training"]["decisions"] == 128


def test_a_new_training_sets_the_old_one_aside(run, tmp_path):
    run("train", *TINY, "hydra.run.dir=out")
    old = (tmp_path / "out" / "policy.safetensors").read_bytes()
    # A mistake touches nothing.
    assert run("train", *TINY, "hydra.run.dir=out", "agent.batch_size=0").code == 2
    assert (tmp_path / "out" / "policy.safetensors").read_bytes() == old
    assert run("train", *TINY, "hydra.run.dir=out", "seed=1").code == 0
    assert (tmp_path / "out" / "previous-1" / "policy.safetensors").read_bytes() == old
    assert (tmp_path / "out" / "policy.safetensors").read_bytes() != old


def test_two_variants_of_a_task_are_two_tasks(run, tmp_path):
    result = run(
        "evaluate", "suite=small", "~suite.tasks.clusters_mlp", "~suite.tasks.docstrings_mlp",
        "controller=[adam]",
        "+task@suite.tasks.narrow=wine_mlp", "suite.tasks.narrow.hidden=[4]", "n_seeds=1",
        *SHORT, *QUICK, "hydra.run.dir=out",
    )  # fmt: skip
    assert result.code == 0, result.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["summary"]["adam"]["tasks"]) == ["breast_cancer_mlp", "narrow"]
    assert results["summary"]["adam"]["speedup"]["adam_default"]["geomean"] == 1


def test_the_reference_is_adams_default_whatever_adam_is_set_to(run, tmp_path):
    result = run(
        "evaluate", "task=iris_mlp", "controller=[adam]", "controller.adam.learning_rate=0.1",
        "n_seeds=1", *SHORT, *QUICK, "hydra.run.dir=out",
    )  # fmt: skip
    assert result.code == 0, result.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["references"] == {"adam_default": "reference_adam"}
    assert results["summary"]["reference_adam"]["speedup"]["adam_default"]["geomean"] == 1
    assert results["summary"]["adam"]["speedup"]["adam_default"]["geomean"] != 1


def interruptible(arguments, folder):
    """A command in a process of its own that takes Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-m", f"trainpilot.agents.{arguments[0]}", *arguments[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
        # As from a terminal, where a child takes Ctrl-C even if the test run ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_an_evaluation_that_was_interrupted_goes_on(run, tmp_path):
    given = [
        "suite=small", "controller=[adam,sgd]", "n_seeds=2", *QUICK, "n_workers=1",
        "env.decisions=300", "hydra.run.dir=out",
    ]  # fmt: skip
    process = interruptible(["evaluate", *given], tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("outputs/cache/*/[!.]*.gz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    # The workers hold the same pipe: it ends when the last of them has.
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "results.json").exists()
    result = run("evaluate", *given)
    assert result.code == 0, result.err
    known = re.search(r"(\d+) of 12 runs were known already", result.err)
    assert known is not None, result.err
    assert 0 < int(known[1]) < 12


@pytest.mark.parametrize("n_workers", [0, 2])
def test_ctrl_c_says_how_to_go_on_and_exits_130(tmp_path, n_workers):
    long = ["agent.total_decisions=10_000_000", "env.compiled=false", f"hydra.run.dir={tmp_path}"]
    command = ["train", *TINY, *long, "agent.checkpoint_seconds=0", f"agent.n_workers={n_workers}"]
    process = interruptible(command, tmp_path)
    checkpoint = tmp_path / "checkpoints" / "latest.zip"
    deadline = time.monotonic() + 60
    while not checkpoint.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers are sent it too
    # Workers hold the same pipe for errors: it ends when the last of them has.
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "resume=true to go on" in err
    assert "Traceback" not in err
    assert not (tmp_path / "policy.safetensors").exists()


MISTAKES = [
    (["deploy", "task=mnist"], "unknown task 'mnist'; allowed: .*wine_mlp"),
    (["evaluate", "suite=all"], "unknown suite 'all'; allowed: meta_test, meta_train"),
    (
        ["evaluate", "controller=[adam,lamb]"],
        "unknown controller 'lamb'; allowed: adam, adamw, cosine",
    ),
    (
        ["deploy", "controller=sgd", "controller.sgd.optimizer=lamb"],
        "unknown optimizer 'lamb'; allowed: sgd, adam, rmsprop",
    ),
    (["train", "agent.rate=1"], "unknown setting 'agent.rate'; allowed under 'agent': total_dec"),
    (["train", "agnt=small"], "unknown setting|Could not override 'agnt'"),
    (["train", "agent.total_decisions=many"], "'agent.total_decisions': Value 'many'"),
    (["train", "agent.total_decisions=0"], "agent.total_decisions must be at least 1; given: 0"),
    (["train", "env.decisions=-3"], "env.decisions must be at least 1; given: -3"),
    (["evaluate", "n_seeds=0"], "n_seeds must be at least 1; given: 0"),
    (["deploy", "seed=-1"], "seed must lie between 0 and 4294967295; given: -1"),
    (["train", "seed=-1"], "seed must lie between 0 and 4294967295; given: -1"),
    (["evaluate", "seed=99999999999999999999"], "seed must lie between 0 and 4294967295"),
    (["deploy", "task.hidden=[-5]"], "task 'digits_mlp' must fit together.*negative dimension"),
    (["train", "env.start.learning_rate_high=inf"], "learning_rate_high must be finite"),
    (
        ["train", "--config-name", "foo"],
        "unknown configuration 'foo'; allowed: check_task, deploy, evaluate",
    ),
    (["train", "hydra/launcher=foo"], "unknown hydra/launcher 'foo'; allowed: basic"),
    (["evaluate", "seed=4294967295"], "seed . n_seeds must be at most 4294967296"),
    (
        ["deploy", "policy=."],
        "must be 'default', 'rate_only' or the path of a policy.safetensors; given: ",
    ),
    (["evaluate", "controller=[foo/bar]"], "unknown controller 'foo/bar'; allowed: adam"),
    (["train", "nonsense"], "a setting must read NAME=VALUE.*given: nonsense"),
    (["train", "resume=true"], "resume=true needs a checkpoint"),
    (["deploy", "policy=none.safetensors"], "given: none.safetensors, where there is no file"),
    (["deploy", "policy=cut.safetensors"], "given: cut.safetensors, which is cut short"),
    (["deploy", "controller=[adam,sgd]"], "deploy takes one controller; given: adam, sgd"),
    (["deploy", "task=custom"], "value must be given for 'task._target_'"),
    (["deploy", "task=custom", "task._target_=my.own"], "could not be made by my.own"),
    (
        ["deploy", "task=custom", "task._target_=broken.infinite"],
        "loss of task 'infinite' must be finite and above 0 .*; given: (inf|nan)",
    ),
    (["check-task", "task=null"], "must be given one of its options; given: null"),
    (["check-task", "task=3"], "must be given one of its options; given: int"),
    (
        ["deploy", "task.micro_batch_size=ten"],
        "micro_batch_size of task 'digits_mlp' must be a whole number between 1 .*; given: ten",
    ),
    (
        ["fly"],
        "unknown command 'fly'; allowed: train, deploy, evaluate, report, check-task, tasks, contr",
    ),
]
BROKEN = """
import torch
from trainpilot import TensorTask

def infinite():
    return TensorTask(
        "infinite",
        inputs=torch.full((100, 3), torch.inf),
        targets=torch.zeros(100).long(),
        model=lambda: torch.nn.Linear(3, 2),
    )
"""


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: str(value)[:50])
def test_a_mistake_is_one_sentence_and_leaves_nothing(run, tmp_path, arguments, message):
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 40)
    given = arguments if arguments == ["fly"] else [*arguments, "hydra.run.dir=out"]
    result = run(*given)
    assert result.code == 2
    lines = [line for line in result.err.splitlines() if ": started" not in line]
    assert len(lines) == 1, result.err
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in result.err
    assert result.out == ""
    left = [path for path in tmp_path.glob("out/*") if path.name != ".hydra"]
    assert left == []


def test_a_folder_that_cannot_be_made_is_one_sentence(run, tmp_path):
    (tmp_path / "out").write_text("a file")
    result = run("deploy", "task=iris_mlp", *SHORT, "hydra.run.dir=out")
    assert result.code == 2
    assert re.fullmatch(r"trainpilot deploy: a file or folder .* 'out'\n", result.err), result.err


def test_full_errors_are_there_for_who_asks(run, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="n_seeds must be at least 1"):
        run("evaluate", "n_seeds=0", "hydra.run.dir=out")


def test_help_lists_and_version(run):
    assert "meta-train a policy" in run("--help").out
    assert run().out == run("--help").out
    assert run("--version").out.startswith("trainpilot 0.")
    controllers = run("controllers").out
    for name in ("reduce_on_plateau", "learning_rate=0.01", "policy=${policy}"):
        assert name in controllers


def test_a_folder_named_envs_beside_the_user_is_not_shadowed_and_does_not_shadow(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("MINE = True\n")
    script = textwrap.dedent("""
        import envs, trainpilot.envs.engine
        assert envs.MINE
        print("both")
    """)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.stdout == "both\n", done.stderr
