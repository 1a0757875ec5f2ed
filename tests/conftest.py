"""What every test runs under."""

import os
from pathlib import Path

import pytest

# These are read when torch, matplotlib and huggingface_hub are first imported, and by the commands
# that tests start.
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
if workers is not None:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data sets and references that lies beside the repository; tests that need it
    skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    return SHARED
