"""Strict dtypes and ranks, 8 simulated CPU devices, warnings as errors; no network."""

import fcntl
import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling takes longer than running here
CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)  # the programs that tests start share it
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
# Eight devices on two busy cores may wait for each other longer than XLA's 40 s.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600"
)

import jax  # noqa: E402
import programs  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from imat_jax.data import builder  # noqa: E402
from imat_jax.data.dataset import Dataset  # noqa: E402
from imat_jax.data.sources import synthetic  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Two programs in flight on eight simulated devices can wait for each other's threads for ever.
jax.config.update("jax_cpu_enable_async_dispatch", False)

# A fixed set of examples: a failure is a failure of the code, not of the day.
settings.register_profile("imat", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("imat")


@pytest.fixture(scope="session")
def corpora() -> pathlib.Path:
    """The folder of the real corpora: $IMAT_DATA, or shared/data beside the repository."""
    default = pathlib.Path(__file__).parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("IMAT_DATA", default))
    if not (folder / "ravdess.npz").is_file():
        pytest.skip("real corpora are not there; set IMAT_DATA to the folder of ravdess.npz")
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """`shared(name, make)` is a folder that `make(folder)` filled, once for all of xdist's workers.

    What is in it is not to be changed.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def once(name, make):
        folder, done = root / name, root / f"{name}.done"
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def tiny_dataset(shared) -> Dataset:
    """The embedded corpus in a small size."""

    def make(folder):
        sizes = {"train": 96, "valid": 40, "test": 50}
        builder.build(synthetic.corpus(sizes), folder / "tiny", progress=False)

    return Dataset.open(shared("dataset", make) / "tiny")


@pytest.fixture(scope="session")
def finished(shared, tiny_dataset):
    """A small run that nothing interrupted: its directory, and what it printed."""

    def make(folder):
        done = programs.run("train", *programs.small_flags(folder / "whole", tiny_dataset))
        assert done.returncode == 0, done.stderr
        (folder / "said.txt").write_text(done.stdout)

    folder = shared("finished", make)
    return folder / "whole", (folder / "said.txt").read_text()


@pytest.fixture
def library_promotion():
    """Optax and Flax promote dtypes inside; our own parts are tested under the strict rules."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
