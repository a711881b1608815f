"""The word embedding table as a product of two matrices.

The table of a BERT has 30,000 rows and as many columns as the encoder is wide: half of the parameters of a small model,
and most of a model whose layers were removed. Its truncated singular value decomposition is the closest product of a
table [V, E] and a matrix [E, D] in the sum of squared differences (Eckart & Young 1936). Position and token type
embeddings and the LayerNorm stay unchanged, so with E = D the model's outputs stay the same.

The singular values fall steeply, and so would the columns of the table. Between the two factors stands a random
rotation and its inverse. It changes no product, and makes the columns equally large: a quantised table has one scale
for each row.
"""

import numpy as np

from bertjax.errors import UserError
from bertjax.model.config import BertConfig
from bertjax.params import Tree


def factorise_words(
    config: BertConfig, params: Tree, width: int, weights: np.ndarray | None = None
) -> tuple[BertConfig, Tree]:
    """The model with a word embedding table of `width` columns and a projection to the encoder's width. `weights` says
    how much the squared differences of each row count [V]; by default all rows count the same.

    Raises:
      UserError: The table is factorised already, or `width` is not between 1 and the encoder's.
    """
    if config.maps_embeddings:
        raise UserError(
            f"the word embedding table is factorised already, with a width of {config.embedding_size}; only a model "
            "without a projection from its word embeddings to the encoder can be factorised."
        )
    if not 1 <= width <= config.hidden_size:
        raise UserError(f"the embedding width is {width}; expected 1 to {config.hidden_size}, the encoder's width.")
    table = params["embeddings"]["word"]["embedding"]
    # By the Gram matrix, [D, D] instead of [V, D]; in float64, because it squares the singular values.
    weighted = table.astype(np.float64) * (1.0 if weights is None else weights[:, None])
    squares, directions = np.linalg.eigh(weighted.T @ table)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))
    leading = directions[:, np.argsort(-squares)[:width]] @ rotation
    factors = {"word": {"embedding": table @ leading}, "word_mapping": {"kernel": leading.T}}
    factors = {name: {key: leaf.astype(np.float32) for key, leaf in tree.items()} for name, tree in factors.items()}
    return (
        config.replace(embedding_size=width, factorised="words"),
        {**params, "embeddings": {**params["embeddings"], **factors}},
    )
