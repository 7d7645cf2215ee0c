"""What bench.ort_memory writes of a small network."""

from dataclasses import replace

import pytest

from bench import full_size, ort_memory


@pytest.mark.slow
def test_every_way_is_measured(tmp_path, monkeypatch):
    network = full_size.NETWORKS["cifar"]
    small = replace(network, config={**network.config, **network.small, "sample_size": 64})
    monkeypatch.setitem(full_size.NETWORKS, "cifar", small)
    monkeypatch.setattr(ort_memory, "TIMED", ort_memory.LatencyOptions(rounds=10, seconds=0))
    row = ort_memory.row_of("cifar", tmp_path)
    assert set(row["memory"]) == set(row["milliseconds"]) == set(ort_memory.WAYS)
    assert all(found["peak"] >= found["after"] > 0 for found in row["memory"].values())
    assert row["memory"]["diffc"]["after"] < row["memory"]["itself"]["after"]
    assert all(ratio["pairs"] == 10 for ratio in row["over_itself"].values())
