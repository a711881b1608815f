"""A teacher's probabilities of tokens, against PyTorch's KL over the rows that count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bertjax.distill.terms import MLMSoftTargets
from bertjax.errors import UserError
from bertjax.model import BertConfig, ModelOutput
from tests.tolerances import OTHER_FRAMEWORK

CONFIG = BertConfig(architecture="BertForMaskedLM", vocab_size=11)


def said(logits: np.ndarray) -> ModelOutput:
    return ModelOutput(jnp.asarray(logits), None, None, (), (), (), ())


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_loss_is_torchs_batchmean_over_places_that_count(everywhere: bool):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 3, 5, 11)).astype(np.float32)
    mask = (np.arange(5) < np.array([5, 3, 4])[:, None]).astype(np.int32)
    batch = {"attention_mask": mask, "weights": np.array([1, 1, 0], np.float32), "masked_weights": (1.0 - mask) * 0.5}
    counted = mask * batch["weights"][:, None] if everywhere else batch["masked_weights"]
    garbage = np.where(counted[..., None] > 0, student, np.nan)
    loss = MLMSoftTargets(temperature=3.0, everywhere=everywhere).build(CONFIG, CONFIG)
    total, weight = loss({}, said(garbage), said(teacher), jax.tree.map(jnp.float32, batch))
    rows = [torch.log_softmax(torch.tensor(x[counted > 0]) / 3, -1) for x in (student, teacher)]
    expected = 9 * torch.nn.KLDivLoss(reduction="batchmean", log_target=True)(*rows)
    np.testing.assert_allclose(total / weight, expected, **OTHER_FRAMEWORK)
    assert weight == counted.sum()


def test_models_that_predict_no_words_or_others_are_refused():
    with pytest.raises(UserError, match="a BertModel has no MLM head"):
        MLMSoftTargets().build(CONFIG, CONFIG.replace(architecture="BertModel"))
    with pytest.raises(UserError, match="the student has 11 tokens, the teacher 12"):
        MLMSoftTargets().build(CONFIG, CONFIG.replace(vocab_size=12))
