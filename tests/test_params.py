"""Trees by name: small enough to check against what one would write by hand."""

import jax
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.params import assign, count, flatten, map_with_path, select, tree_differences, unflatten


def array(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


TREE = {
    "embeddings": {"word": {"embedding": array(5, 2)}},
    "encoder": {
        "layer_0": {"query": {"kernel": array(2, 3), "bias": array(3)}},
        "layer_10": {"query": {"kernel": array(2, 3), "bias": array(3)}},
    },
    "scale": array(),
}
PATHS = [
    "embeddings/word/embedding",
    "encoder/layer_0/query/kernel",
    "encoder/layer_0/query/bias",
    "encoder/layer_10/query/kernel",
    "encoder/layer_10/query/bias",
    "scale",
]


def test_paths_are_the_keys_joined_in_the_order_of_the_tree():
    assert list(flatten(TREE)) == PATHS


def test_paths_are_those_that_jax_gives():
    leaves, _ = jax.tree.flatten_with_path(TREE)
    assert {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves} == set(PATHS)


def test_unflatten_is_the_inverse():
    again = unflatten(flatten(TREE))
    assert jax.tree.structure(again) == jax.tree.structure(TREE)
    assert all(
        again_leaf is leaf for again_leaf, leaf in zip(jax.tree.leaves(again), jax.tree.leaves(TREE), strict=True)
    )


def test_the_first_rule_that_matches_decides():
    values = assign([("layer_0/.*bias", "a"), ("bias$", "b"), ("^scale$", "c")], TREE, default="rest")
    assert list(values.values()) == ["rest", "rest", "a", "rest", "b", "c"]
    assert list(values) == PATHS


def test_a_rule_is_searched_for_and_not_anchored():
    assert assign([("layer_1", 1)], TREE, default=0)["encoder/layer_10/query/bias"] == 1


def test_a_rule_that_matches_nothing_is_an_error_that_shows_paths():
    with pytest.raises(
        UserError, match="'layer_7' matches no parameter; paths look like: embeddings/word/embedding, enc"
    ):
        assign([("kernel", 1), ("layer_7", 2)], TREE, default=0)


def test_a_rule_behind_another_one_is_no_mistake():
    """`kernel` decides about all that `query/kernel` could, but it is spelt right."""
    assert assign([("kernel", 1), ("query/kernel", 2)], TREE, default=0)["encoder/layer_0/query/kernel"] == 1


def test_select_keeps_the_form_of_what_it_keeps():
    chosen = select("layer_10", TREE)
    assert list(flatten(chosen)) == PATHS[3:5]
    assert chosen["encoder"]["layer_10"]["query"]["kernel"] is TREE["encoder"]["layer_10"]["query"]["kernel"]
    assert select("nothing", TREE) == {}


def test_map_with_path_sees_path_and_leaf():
    assert flatten(map_with_path(lambda path, leaf: (path, leaf.ndim), TREE)) == {
        path: (path, leaf.ndim) for path, leaf in flatten(TREE).items()
    }


def test_count_adds_up_arrays_and_shapes_alike():
    assert count(TREE) == 10 + 2 * (6 + 3) + 1
    assert count(jax.eval_shape(lambda: TREE)) == count(TREE)


def test_compare_names_every_difference():
    other = flatten(TREE) | {"encoder/layer_0/query/bias": array(4), "new/kernel": array(1, 1)}
    other.pop("scale")
    assert tree_differences(unflatten(other), TREE) == [
        "missing: scale ()",
        "unexpected: new/kernel (1, 1)",
        "shape of encoder/layer_0/query/bias: (4,), expected (3,)",
    ]
    assert tree_differences(TREE, jax.eval_shape(lambda: TREE)) == []
