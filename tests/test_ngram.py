"""Language models against n-grams: counts, smoothing and divergences with known answers."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_study import script
from numpy.typing import NDArray
from tiny_model import VOCABULARY, tiny_model, write_contexts, write_tokenizer
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from ontogeny.config.evaluation import NgramSettings
from ontogeny.errors import UserError
from ontogeny.evaluation import ngram, ngram_counts
from ontogeny.evaluation.heldout import Contexts
from ontogeny.evaluation.ngram import divergences, predictor_losses, write_ngram
from ontogeny.evaluation.ngram_counts import NgramCounts, NgramPredictor, count_ngrams
from ontogeny.tokens import Tokens, read_tokens

Doubles = NDArray[np.float64]


def world() -> Tokens:
    """A text of two tokens, 1 and 2, in contexts of BOS and two of them: 45 times 1 1, 15 times 1 2, and so on."""
    pairs = np.repeat([[1, 1], [1, 2], [2, 1], [2, 2]], [45, 15, 10, 30], axis=0)
    tokens = np.concatenate([np.zeros((100, 1), int), pairs], axis=1).astype(np.uint16)
    return Tokens(tokens, np.full(100, 3, np.int32), np.arange(100, dtype=np.int32), 0, 3, "")


UNIGRAM = np.array([0.5, 115.5, 85.5]) / 201.5
"""1 comes 60 times after BOS, and 45 + 10 times after the first token; 2 comes 40 + 15 + 30 times."""
BIGRAM = np.array(
    [
        [0, 59.5 / 100, 39.5 / 100] + 0.5 * 2 / 100 * UNIGRAM,
        [0, 44.5 / 60, 14.5 / 60] + 0.5 * 2 / 60 * UNIGRAM,
        [0, 9.5 / 40, 29.5 / 40] + 0.5 * 2 / 40 * UNIGRAM,
    ]
)
TIMES = np.array([[0, 60, 40], [0, 45, 15], [0, 10, 30]])
"""How often a bigram comes; every token here comes often, so the discount is one half."""


def as_contexts(tokens: Tokens) -> Contexts:
    there_BT = torch.from_numpy(np.arange(tokens.tokens.shape[1]) < tokens.length[:, None])
    document_B = torch.from_numpy(tokens.document.astype(np.int64))
    return Contexts(torch.from_numpy(tokens.tokens.astype(np.int64)), there_BT, there_BT[:, 1:], document_B)


def random_text(seed: int = 0, contexts: int = 60, length: int = 12) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Contexts of unlike length, where token 0 is BOS, a word, and what pads."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, VOCABULARY + 1)
    tokens = random.choice(VOCABULARY, (contexts, length), p=weights / weights.sum()).astype(np.uint16)
    lengths = random.integers(1, length + 1, contexts).astype(np.int32)
    tokens[:, 0] = 0
    tokens[np.arange(length) >= lengths[:, None]] = 0
    return tokens, lengths


def as_tokens(tokens: NDArray[np.uint16], lengths: NDArray[np.int32]) -> Tokens:
    return Tokens(tokens, lengths, np.arange(len(tokens), dtype=np.int32), 0, VOCABULARY, "")


def brute_force(tokens: NDArray[np.uint16], lengths: NDArray[np.int32]) -> tuple[Doubles, Doubles]:
    """Smooth counts with plain loops: unigram (V), bigram (V, V)."""
    pairs = Counter(
        (int(row[t - 1]), int(row[t])) for row, length in zip(tokens, lengths, strict=True) for t in range(1, length)
    )
    count = np.zeros((VOCABULARY, VOCABULARY))
    for pair, times in pairs.items():
        count[pair] = times
    unigram = (count.sum(0) + 0.5) / (count.sum() + 0.5 * VOCABULARY)
    once, twice = (count == 1).sum(), (count == 2).sum()
    discount = once / (once + 2 * twice)
    bigram = np.tile(unigram, (VOCABULARY, 1))
    for previous in range(VOCABULARY):
        total = count[previous].sum()
        if total:
            left = discount * (count[previous] > 0).sum() / total
            bigram[previous] = np.maximum(count[previous] - discount, 0) / total + left * unigram
    return unigram, bigram


def test_two_tokens_have_the_entropies_counted_by_hand() -> None:
    predictor = NgramPredictor(count_ngrams(world(), 3))
    assert predictor.discount == 0.5
    np.testing.assert_allclose(predictor.log_unigram().exp(), UNIGRAM, rtol=1e-6)
    np.testing.assert_allclose(predictor.log_bigram(torch.arange(3)).exp(), BIGRAM, rtol=1e-6)
    np.testing.assert_allclose(BIGRAM.sum(1), 1)
    unigram, bigram = predictor_losses(predictor, as_contexts(world())).sum(0) / 200
    assert float(unigram) == pytest.approx(-(TIMES * np.log(UNIGRAM)).sum() / 200, rel=1e-6)
    assert float(bigram) == pytest.approx(-(TIMES * np.log(BIGRAM)).sum() / 200, rel=1e-6)


def test_a_model_that_knows_the_bigrams_has_kl_0_and_their_loss() -> None:
    contexts = as_contexts(world())
    predictor = NgramPredictor(count_ngrams(world(), 3))
    logits_BTV = torch.from_numpy(np.log(BIGRAM))[contexts.tokens] + 7  # logits are free up to a constant
    kl_unigram, kl_bigram, nll = divergences(predictor, logits_BTV.float(), contexts).sum(0) / 200
    expected = (TIMES.sum(1, keepdims=True) * BIGRAM * np.log(BIGRAM / UNIGRAM)).sum() / 200
    assert float(kl_unigram) == pytest.approx(expected, rel=1e-5)
    assert float(kl_bigram) == pytest.approx(0, abs=1e-6)
    assert float(nll) == pytest.approx(float(predictor_losses(predictor, contexts).sum(0)[1]) / 200, rel=1e-6)


def test_kl_is_that_of_the_model_from_the_ngram() -> None:
    contexts = as_contexts(world())
    predictor = NgramPredictor(count_ngrams(world(), 3))
    uniform = divergences(predictor, torch.zeros(100, 3, 3), contexts).sum(0) / 200
    assert float(uniform[0]) == pytest.approx(-np.log(3) - np.log(UNIGRAM).mean(), rel=1e-5)
    assert float(uniform[0]) != pytest.approx(np.log(3) + (UNIGRAM * np.log(UNIGRAM)).sum(), rel=0.1)
    assert float(uniform[2]) == pytest.approx(np.log(3), rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_numpy_gets_the_same_from_loops(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram, "ENTRIES_AT_ONCE", 5 * VOCABULARY)
    text, heldout = random_text(seed), random_text(seed + 10, 9)
    unigram, bigram = brute_force(*text)
    predictor = NgramPredictor(count_ngrams(as_tokens(*text), VOCABULARY))
    contexts = as_contexts(as_tokens(*heldout))
    scores = np.random.default_rng(seed).normal(size=(9, 12, VOCABULARY)) * 2
    p = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
    expected, losses = np.zeros((9, 3)), np.zeros((9, 2))
    for context, (row, length, p_TV) in enumerate(zip(*heldout, p, strict=True)):
        for t in range(1, length):
            here, previous, following = p_TV[t - 1], row[t - 1], row[t]
            expected[context] += [
                (here * np.log(here / unigram)).sum(),
                (here * np.log(here / bigram[previous])).sum(),
                -np.log(here[following]),
            ]
            losses[context] -= [np.log(unigram[following]), np.log(bigram[previous, following])]
    found = divergences(predictor, torch.from_numpy(scores).float(), contexts)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(predictor_losses(predictor, contexts), losses, rtol=1e-5)


def test_a_token_that_nothing_follows_predicts_like_the_unigram() -> None:
    tokens = np.array([[0, 3, 4], [0, 3, 4]], np.uint16)
    predictor = NgramPredictor(count_ngrams(as_tokens(tokens, np.array([3, 3], np.int32)), VOCABULARY))
    torch.testing.assert_close(predictor.log_bigram(torch.tensor([4])), predictor.log_unigram()[None])


def test_blocks_change_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = as_tokens(*random_text())
    whole = count_ngrams(tokens, VOCABULARY + 5)
    monkeypatch.setattr(ngram_counts, "PAIRS_AT_ONCE", 30)
    for one, other in zip(whole, count_ngrams(tokens, VOCABULARY + 5), strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.tokens == int((tokens.length - 1).sum()) == whole.bigram_N.sum()


def test_no_bigram_crosses_contexts_and_padding_is_known_by_length() -> None:
    tokens = as_tokens(np.array([[0, 0, 2, 0], [0, 1, 0, 0]], np.uint16), np.array([4, 2], np.int32))
    counts = count_ngrams(tokens, VOCABULARY)
    pairs = dict(
        zip(zip(counts.previous_N.tolist(), counts.next_N.tolist(), strict=True), counts.bigram_N, strict=True)
    )
    assert pairs == {(0, 0): 1, (0, 2): 1, (2, 0): 1, (0, 1): 1}
    assert counts.token_V[:3].tolist() == [2, 1, 1]


def test_the_discount_is_that_of_ney() -> None:
    times = np.array([1, 1, 1, 1, 2, 2, 3, 9])
    counts = NgramCounts(np.zeros(9, int), np.zeros(8, int), np.arange(8), times)
    assert counts.discount() == 4 / (4 + 2 * 2)
    assert counts._replace(bigram_N=times[:4]).discount() == ngram_counts.DISCOUNT


def bigram_model(bigram: Doubles) -> GPTNeoXForCausalLM:
    """A GPT-NeoX that predicts from the last token alone: blocks that add nothing, and an unembedding solved for."""
    width = 2 * len(bigram)
    config = GPTNeoXConfig(
        vocab_size=len(bigram), hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=12, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.gpt_neox.layers.parameters():
            weight.zero_()
        model.gpt_neox.embed_in.weight.copy_(torch.eye(len(bigram), width))
        normal_VD = model.gpt_neox.final_layer_norm(model.gpt_neox.embed_in.weight).double()
        model.lm_head.weight.copy_((torch.linalg.pinv(normal_VD) @ torch.from_numpy(np.log(bigram))).T)
    return model


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens, and a model that is random at step 0 and knows the bigrams at step 8."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tokens").mkdir()
    write_contexts(folder / "tokens/train.h5", *random_text())
    write_contexts(folder / "tokens/heldout.h5", *random_text(1, 20), document=np.arange(20, dtype=np.int32) // 3)
    for step, model in ((0, tiny_model()), (8, bigram_model(brute_force(*random_text())[1]))):
        write_tokenizer(folder / f"models/neox/step{step}")
        model.save_pretrained(folder / f"models/neox/step{step}")
    return folder


def test_a_checkpoint_that_learnt_the_bigrams_is_found(study: Path, tmp_path: Path) -> None:
    files = (study / "tokens/train.h5", study / "tokens/heldout.h5")
    settings = NgramSettings(tokens=10**6, batch_contexts=7)
    write_ngram("neox", (0, 8), study / "models", *files, settings, tmp_path / "ngram.csv")
    table = pd.read_csv(tmp_path / "ngram.csv")
    assert set(table["model"]) == {"neox"}
    value = table.assign(step=table["step"].fillna(-1).astype(int)).set_index(["step", "metric"])["value"]
    assert value[8, "kl_bigram"] == pytest.approx(0, abs=1e-5)
    assert value[8, "nll"] == pytest.approx(value[-1, "nll_bigram"], rel=1e-5)
    assert value[8, "kl_unigram"] > 0.05
    assert value[0, "kl_bigram"] > 0.5
    heldout = read_tokens(files[1])
    assert set(table.loc[table["metric"] != "discount", "groups"]) == {7}
    bigram = np.log(brute_force(*random_text())[1])
    losses = [
        -sum(bigram[row[t - 1], row[t]] for t in range(1, length))
        for row, length in zip(heldout.tokens, heldout.length, strict=True)
    ]
    by_document = pd.DataFrame({"loss": losses, "tokens": heldout.length - 1}).groupby(heldout.document).sum()
    mean = by_document["loss"].sum() / by_document["tokens"].sum()
    residuals = by_document["loss"] - mean * by_document["tokens"]
    expected = np.sqrt(7 / 6 * (residuals**2).sum()) / by_document["tokens"].sum()
    errors = table.assign(step=table["step"].fillna(-1).astype(int)).set_index(["step", "metric"])["standard_error"]
    assert value[-1, "nll_bigram"] == pytest.approx(mean, rel=1e-5)
    assert errors[-1, "nll_bigram"] == pytest.approx(expected, rel=1e-4)
    assert errors[8, "nll"] == pytest.approx(expected, rel=1e-3)
    assert np.isnan(errors[-1, "discount"])
    assert set(table.loc[table["metric"] != "discount", "tokens"]) == {int((heldout.length - 1).sum())}
    assert int(table.loc[table["metric"] == "discount", "tokens"].item()) == int(
        (read_tokens(files[0]).length - 1).sum()
    )

    made = script(
        "ngram.py", "--settings", settings.model_dump_json(), "--model", "neox", "--steps", 0, 8, "--models",
        study / "models", "--tokens", files[0], "--heldout", files[1], "--out", tmp_path / "again.csv",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "ngram.csv").read_bytes()


def test_a_model_of_fewer_tokens_than_the_tokenizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"the tokenizer has 32 tokens, but the model predicts 31"):
        count_ngrams(as_tokens(*random_text()), VOCABULARY - 1)
