"""The device that models are trained on."""

from __future__ import annotations

import torch

from trainpilot.inner_tasks.errors import TrainpilotError, first_line


def device_of(name: str) -> torch.device:
    """The device of a name.

    Raises:
        TrainpilotError: if there is none here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainpilotError(
            f"the device must be 'cpu', or 'cuda' where there is one; given: {name} "
            f"({first_line(error)})"
        ) from error
    return device
