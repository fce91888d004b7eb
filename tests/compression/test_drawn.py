"""Networks drawn at random, through ``lib.compress``, a file and ``lib.load``."""

import pytest
import torch

from tests.compression import drawn

#: So many as take some 45 seconds of a core; ``python -m tests.compression.drawn`` tries more.
NETWORKS, TOGETHER = 80, 20

#: What is refused is a budget that cannot be met: of a thousand networks less than a fifth.
REASONS = ("cannot be met", "is impossible", "no convolution, linear layer or embedding")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", range(0, NETWORKS, TOGETHER))
def test_drawn_networks_are_compressed_or_refused_in_one_line(first, tmp_path):
    refused = [
        drawn.taken_through(drawn.drawn(seed), tmp_path) for seed in range(first, first + TOGETHER)
    ]
    reasons = [reason for reason in refused if reason]
    assert not [reason for reason in reasons if not any(known in reason for known in REASONS)]
    assert len(reasons) <= 8
