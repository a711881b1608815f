"""Pruning the vocabulary as a script: the head stays what it was, whatever it was."""

from pathlib import Path

import numpy as np
import pytest

import bertjax
from bertjax.params import flatten
from bertjax.recipes.data import Data
from bertjax.recipes.vocabulary import Config
from tests.train.tiny import FILLER, GOOD, write_model, write_table
from train.vocabulary import main


def test_a_pre_trained_head_stays_and_loses_the_same_tokens(tmp_path: Path):
    model = write_model(tmp_path / "model", architecture="BertForMaskedLM")
    text = tmp_path / "text.txt"
    text.write_text(" ".join(GOOD) + "\n\nthe film\n")
    main(Config(model=str(model), data=Data(train=str(text), eval=str(text)), out=str(tmp_path / "out")))
    before, after = bertjax.load(model), bertjax.load(tmp_path / "out" / "bundle")
    assert after.config.architecture == "BertForMaskedLM"
    assert after.newly_initialized == ()
    assert after.tokenizer is not None
    assert before.tokenizer is not None
    assert set(after.tokenizer.vocabulary) & {*GOOD, *FILLER} == {*GOOD, "the", "film", "a"}  # and its letters
    assert flatten(after.params).keys() == flatten(before.params).keys()
    kept = [before.tokenizer.vocabulary[piece] for piece in after.tokenizer.vocabulary]
    here = list(after.tokenizer.vocabulary.values())
    np.testing.assert_array_equal(after.params["decoder_bias"][here], before.params["decoder_bias"][kept])


def test_examples_cannot_be_chosen_where_there_is_no_task(tmp_path: Path):
    model = write_model(tmp_path / "model", architecture="BertModel")
    table = str(write_table(tmp_path / "table.tsv", 20))
    with pytest.raises(bertjax.UserError, match=r"--data\.rows=5: it chooses labelled examples"):
        main(Config(model=str(model), data=Data(train=table, eval=table, rows=5), out=str(tmp_path / "out")))
