"""A word table as the product of two narrow ones.

The table of a BERT has as many columns as the encoder is wide, and 30,000 rows: half of a small model, and all of what
is left of one that lost its layers. Its truncated singular value decomposition is the closest product of a table [V, E]
and a matrix [E, D], in the sum of squared differences (Eckart & Young 1936). Positions, token types and the LayerNorm
stay as they were, so with E = D the model computes what it did.
"""

import numpy as np

from bertjax.errors import UserError
from bertjax.model.config import BertConfig
from bertjax.params import Tree


def factorise_words(config: BertConfig, params: Tree, width: int) -> tuple[BertConfig, Tree]:
    """The model with a word table of `width` columns and a mapping to the encoder's width.

    Raises:
      UserError: The table is factorised already, or `width` is not between 1 and the encoder's.
    """
    if config.maps_embeddings:
        raise UserError(f"the word table is factorised already, to {config.embedding_size} columns.")
    if not 1 <= width <= config.hidden_size:
        raise UserError(f"width is {width}; expected 1 to {config.hidden_size}, the width of the encoder.")
    table = params["embeddings"]["word"]["embedding"]
    # By the Gram matrix: [D, D] instead of [V, D], in float64, where squaring the singular values costs nothing.
    squares, directions = np.linalg.eigh(table.T.astype(np.float64) @ table)
    strongest = directions[:, np.argsort(-squares)[:width]]
    factors = {"word": {"embedding": table @ strongest}, "word_mapping": {"kernel": strongest.T}}
    factors = {name: {key: leaf.astype(np.float32) for key, leaf in tree.items()} for name, tree in factors.items()}
    return (
        config.replace(embedding_size=width, factorised="words"),
        {**params, "embeddings": {**params["embeddings"], **factors}},
    )
