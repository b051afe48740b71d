"""Mixup: what is mixed with what, and what is left alone."""

import jax
import numpy as np
import pytest

from imat_jax.mixup import mixup


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    length = np.asarray([5, 3, 1, 4])
    return {
        "audio": rng.standard_normal((4, 5, 3), dtype=np.float32),
        "audio_mask": np.arange(5)[None] < length[:, None],
        "weight": np.asarray([1, 1, 1, 0], np.float32),
        "label": np.arange(4),
    }


@pytest.mark.parametrize("seed", range(8))
def test_each_row_is_mixed_with_its_partner(batch, seed):
    mixed, share, partner = mixup(batch, jax.random.key(seed), 0.4)
    share, partner = np.asarray(share), np.asarray(partner)
    x = np.where(batch["audio_mask"][..., None], batch["audio"], 0)
    assert sorted(partner) == [0, 1, 2, 3]
    assert ((share >= 0.5) & (share <= 1)).all()
    for i, j in enumerate(partner):
        wanted = share[i] * x[i] + (1 - share[i]) * x[j]
        np.testing.assert_allclose(mixed["audio"][i], wanted, rtol=1e-6, atol=1e-7)
        longest = batch["audio_mask"][[i, j] if share[i] < 1 else [i]].any(axis=0)
        np.testing.assert_array_equal(mixed["audio_mask"][i], longest)
    np.testing.assert_array_equal(mixed["label"], batch["label"])


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_mixed_with_a_row_that_fills_the_batch_up(batch, seed):
    batch["audio_mask"][3] = False
    batch["audio"][3] = np.nan
    mixed, share, partner = mixup(batch, jax.random.key(seed), 0.4)
    lonely = np.asarray(partner) == 3
    assert (np.asarray(share)[lonely] == 1).all()
    alone = np.where(batch["audio_mask"][..., None], batch["audio"], 0)
    np.testing.assert_array_equal(np.asarray(mixed["audio"])[lonely], alone[lonely])
    np.testing.assert_array_equal(
        np.asarray(mixed["audio_mask"])[lonely], batch["audio_mask"][lonely]
    )
    assert np.isfinite(mixed["audio"]).all()
