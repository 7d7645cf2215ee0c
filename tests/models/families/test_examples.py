"""Example inputs of a family's specs."""

import torch

from diffc.models.families.examples import example_inputs
from diffc_export.specs import TensorSpec


def test_whole_numbers_are_drawn_from_all_of_a_range():
    spec = TensorSpec("kind", (), "int64", example=range(5, 11, 2))
    values = example_inputs([spec], {}, 200, torch.Generator().manual_seed(0))["kind"]
    assert set(values.tolist()) == {5, 7, 9}


def test_without_an_example_whole_numbers_are_labels_of_the_config():
    spec = TensorSpec("class_labels", (), "int64")
    values = example_inputs([spec], {"num_class_embeds": 3}, 100, torch.Generator().manual_seed(0))
    assert set(values["class_labels"].tolist()) == {0, 1, 2}
