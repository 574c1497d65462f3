"""Makes torch, where it was built without CUDA, take a device of the tests for CUDA's.

    CUDA_STAND_IN=LIBRARY python tests/cuda_stand_in.py
    CUDA_STAND_IN=LIBRARY python -m pytest -p cuda_stand_in tests/test_cuda*.py

The library is cuda_stand_in.cpp, compiled. The first prints, as JSON, what comes of the trainings
of cuda_stand_in_trainings.py. For a process of its own that has no other work: torch and all
libraries that look for a GPU find one from then on.
"""

from __future__ import annotations

import ctypes
import os

# Torch asks for the device once, while it is imported.
ctypes.CDLL(os.environ["CUDA_STAND_IN"], mode=ctypes.RTLD_GLOBAL)

import torch  # noqa: E402
import torch._dynamo  # noqa: E402  # would look for more of CUDA than there is

torch.cuda.is_available = torch.cuda.is_initialized = lambda: True
torch.cuda._is_compiled = lambda: True
torch.cuda._is_in_bad_fork = lambda: False
torch.cuda._lazy_init = torch.cuda.empty_cache = lambda: None
torch.cuda.synchronize = torch.cuda.set_device = lambda device=None: None
torch.cuda.device_count = lambda: 1
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_name = lambda device=None: "stand-in"
torch.cuda.get_device_capability = lambda device=None: (8, 0)
torch.cuda.is_bf16_supported = lambda including_emulation=True: True
# It draws nothing, and has no memory of its own to copy to in the background.
torch.cuda.manual_seed = torch.cuda.manual_seed_all = lambda seed: None
torch.cuda.get_rng_state_all = lambda: []
torch.cuda.set_rng_state_all = lambda states: None
torch.Tensor.pin_memory = lambda self, device=None: self
torch.cuda.set_sync_debug_mode = lambda mode: torch.ops.cuda_stand_in.refuse_waiting(
    mode == "error"
)

if __name__ == "__main__":
    from cuda_stand_in_trainings import main

    main()
