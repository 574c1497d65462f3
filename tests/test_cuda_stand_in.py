"""The pilot and the engine on a device that torch takes for CUDA's, on machines that have none.

`cuda_stand_in.cpp` is compiled here once: its tensors do not mix with the CPU's, and torch does
with them what it does with a graphics processor's, by the CPU's kernels. What a GPU computes is
shown by test_cuda.py and test_cuda_libraries.py where there is one; their tests run here too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cuda_stand_in_trainings import (
    ENGINE_TASKS,
    N_DECISIONS,
    N_STEPS,
    NAME,
    OPTIONS,
    POLICIES,
    WAITS,
)
from filelock import FileLock
from torch.utils.cpp_extension import include_paths, library_paths

from trainpilot.envs.native_code import find_compiler

HERE = Path(__file__).parent
COMPILER = find_compiler()
TRAININGS = [f"{policy} {name}" for policy in POLICIES for name in (*OPTIONS, "rolled back")]

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="torch was built with CUDA"),
]


@pytest.fixture(scope="module")
def once(tmp_path_factory, worker_id):
    """Gives what a function makes, which is called once for all processes of the tests."""
    own = tmp_path_factory.getbasetemp()
    shared = (own if worker_id == "master" else own.parent) / "cuda_stand_in"
    shared.mkdir(exist_ok=True)

    def call(name: str, make: Callable[[Path], object]) -> Path:
        path = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not path.exists():
                make(path)
        return path

    return call


@pytest.fixture(scope="module")
def environment(once) -> dict[str, str]:
    """Where the device is known."""
    return {**os.environ, "CUDA_STAND_IN": str(once("cuda_stand_in.so", compile_device))}


@pytest.fixture(scope="module")
def found(once, environment) -> dict:
    """What `cuda_stand_in.py` prints."""

    def train(path: Path) -> None:
        script = [sys.executable, str(HERE / "cuda_stand_in.py")]
        run = subprocess.run(script, check=True, stdout=subprocess.PIPE, env=environment)
        path.write_bytes(run.stdout)

    return json.loads(once("printed.json", train).read_text())


def compile_device(library: Path) -> None:
    """Compile the device."""
    command = [str(COMPILER), "-O0", "-std=c++20", "-fPIC", "-shared"]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += [argument for path in include_paths() for argument in ("-isystem", path)]
    command += [str(HERE / "cuda_stand_in.cpp"), "-o", str(library)]
    for path in library_paths():
        command += [f"-L{path}", f"-Wl,-rpath,{path}"]
    subprocess.run([*command, "-ltorch_cpu", "-lc10"], check=True)


def test_the_device_does_not_mix_with_the_cpu_and_counts_who_waits_for_it(found):
    assert found["mixing is refused"]
    assert found["waits are counted"] == [*WAITS.values()]


@pytest.mark.parametrize("name", [*TRAININGS, *(f"{policy} resumed" for policy in POLICIES)])
def test_a_pilot_trains_there_as_on_the_cpu_to_the_last_bit(name, found):
    """The kernels are the CPU's."""
    np.testing.assert_equal(found[name][NAME], found[name]["cpu"])
    assert len(found[name][NAME]["decisions"]) == N_DECISIONS
    rolled_back = [record[2] for record in found[name][NAME]["decisions"]]
    assert any("rolled back" in (each or "") for each in rolled_back) == ("rolled" in name)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_pilot_waits_for_the_device_only_when_it_decides(name, found):
    waits = np.array(found[name]["waits"])
    decides = np.arange(1, N_STEPS + 1) % (N_STEPS // N_DECISIONS) == 0
    # The first step copies the weights to the CPU where the snapshot is to be there.
    decides[0] = "snapshot" in name
    assert (waits[decides] > 0).all()
    assert (waits[~decides] == 0).all()


@pytest.mark.parametrize("name", ENGINE_TASKS)
def test_the_engine_trains_there_as_on_the_cpu(name, found):
    losses = found[f"engine {name}"]
    np.testing.assert_allclose(losses[NAME], losses["cpu"], rtol=1e-4)


@pytest.mark.parametrize(
    ("file", "which", "outcome"),
    [
        # What is compiled for a GPU wants a GPU's compiler.
        ("test_cuda.py", "not compiled and not thousands", "9 passed, 3 deselected"),
        ("test_cuda_libraries.py", "", "9 passed"),
    ],
)
def test_the_tests_of_cuda_pass_there(file, which, outcome, environment):
    command = [sys.executable, "-m", "pytest", "-p", "cuda_stand_in", "-p", "no:cacheprovider"]
    path = os.pathsep.join([str(HERE), environment.get("PYTHONPATH", "")])
    run = subprocess.run(
        [*command, "-q", "--show-capture=no", str(HERE / file), "-k", which],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment, "PYTHONPATH": path},
    )
    assert run.returncode == 0, run.stdout
    assert outcome in run.stdout
