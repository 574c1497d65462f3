"""The pilot and the engine on a device that is not the CPU, on machines that have none.

`second_device.cpp` is compiled here once: a device whose tensors do not mix with the CPU's. What a
graphics processor does besides, kernels and precisions of its own, is in test_cuda.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from second_device import ENGINE_TASKS, N_DECISIONS, N_STEPS, NAME, OPTIONS, POLICIES, WAITS
from torch.utils.cpp_extension import include_paths, library_paths

from trainpilot.envs.native_code import find_compiler

HERE = Path(__file__).parent
COMPILER = find_compiler()
TRAININGS = [f"{policy} {name}" for policy in POLICIES for name in (*OPTIONS, "rolled back")]

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def found(tmp_path_factory, worker_id) -> dict:
    """What `second_device.py` prints, once for all processes of the tests."""
    own = tmp_path_factory.getbasetemp()
    shared = (own if worker_id == "master" else own.parent) / "second_device"
    shared.mkdir(exist_ok=True)
    printed = shared / "printed.json"
    with FileLock(shared / "lock"):
        if not printed.exists():
            printed.write_text(train(shared / "second_device.so"))
    return json.loads(printed.read_text())


def train(library: Path) -> str:
    """Compile the device and train there."""
    command = [str(COMPILER), "-O0", "-std=c++20", "-fPIC", "-shared"]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += [argument for path in include_paths() for argument in ("-isystem", path)]
    command += [str(HERE / "second_device.cpp"), "-o", str(library)]
    for path in library_paths():
        command += [f"-L{path}", f"-Wl,-rpath,{path}"]
    subprocess.run([*command, "-ltorch_cpu", "-lc10"], check=True)
    script = [sys.executable, str(HERE / "second_device.py"), str(library)]
    return subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout


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
