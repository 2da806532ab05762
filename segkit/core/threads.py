"""How many threads a library may compute with. No torch.

The crops of a training are made by as many processes as there are spare cores. A matrix product of
a crop takes microseconds; with threads of its own in each process it waits for the other ones.
"""

from __future__ import annotations

import os
from pathlib import Path

from threadpoolctl import ThreadpoolController, threadpool_limits

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What libraries read when they are loaded."""


def use_one_thread(worker: int = 0) -> None:
    """Compute with one thread in this process, in libraries that are loaded later too.

    Takes the number of a worker process, as the ``worker_init_fn`` of a DataLoader.
    """
    os.environ.update(dict.fromkeys(VARIABLES, "1"))
    threadpool_limits(1)


def limit_blas() -> None:
    """Let numpy and scipy multiply matrices with one thread; torch keeps its own."""
    for library in ThreadpoolController().lib_controllers:
        of_torch = any(part.startswith("torch") for part in Path(library.filepath).parts)
        if library.user_api == "blas" and not of_torch:
            library.set_num_threads(1)
