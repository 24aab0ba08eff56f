"""Features of a typed text, against the models' own library and float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_study import BOS, CONTEXT_LENGTH, SITES, make_models, make_tokenizer, random_crosscoder, save
from tokenizers import Tokenizer
from transformers import GPTNeoXForCausalLM

from ontogeny.errors import UserError
from ontogeny.evaluation.text import TextReader

D_MODEL = 8
TEXT = "The snow fell"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    make_tokenizer(folder)
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>"}))
    make_models(folder, D_MODEL, SITES)
    save(folder, random_crosscoder(D_MODEL, "batchtopk"))
    return folder


def reader(study: Path) -> TextReader:
    return TextReader(
        study / "dictionaries/crosscoder/run", study / "models", study / "tokenizer/tokenizer.json", CONTEXT_LENGTH
    )


def activations(study: Path, ids: list[int]) -> np.ndarray:
    """Raw activations after block 1 of each checkpoint by the models' own library, without BOS (T, S, D)."""
    found = []
    for site in SITES:
        model = GPTNeoXForCausalLM.from_pretrained(study / "models" / site.checkpoint)
        with torch.inference_mode():
            states = model(torch.tensor([[BOS, *ids]]), output_hidden_states=True).hidden_states
        found.append(states[2][0, 1:].double().numpy())
    return np.stack(found, axis=1)


def test_features_of_a_text_are_those_of_its_activations(study: Path) -> None:
    read = reader(study).read(TEXT, most=1000)
    tokenizer = Tokenizer.from_file(str(study / "tokenizer/tokenizer.json"))
    ids = tokenizer.encode(TEXT).ids
    assert "".join(read.texts) == TEXT
    assert (len(read.texts), read.cut) == (len(ids), 0)
    crosscoder = random_crosscoder(D_MODEL, "batchtopk")
    weights = {name: tensor.detach().double().numpy() for name, tensor in crosscoder.state_dict().items()}
    x_TSD = weights["scales"][:, None] * (activations(study, ids) - weights["centers"])
    readings_TSL = np.einsum("tsd,lsd->tsl", x_TSD, weights["W_enc_LSD"])
    h_TL = readings_TSL.sum(1) + crosscoder.encoder_bias().detach().double().numpy()
    norm_L = np.linalg.norm(weights["W_dec"], axis=2).sum(1)
    f_TL = np.where(h_TL * norm_L > weights["threshold"], np.maximum(h_TL, 0), 0)
    fires = np.flatnonzero(f_TL.max(0))
    assert read.firing == len(fires) == len(read.features)
    assert 0 < len(fires) < crosscoder.latents
    assert {found.feature for found in read.features} == {*fires}
    strongest = [found.activation_T.max() for found in read.features]
    assert strongest == sorted(strongest, reverse=True)
    for found in read.features:
        np.testing.assert_allclose(found.activation_T, f_TL[:, found.feature], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.readings_ST.T, readings_TSL[:, :, found.feature], rtol=1e-4, atol=1e-4)


def test_only_as_many_features_as_asked_for_and_the_strongest(study: Path) -> None:
    texts = reader(study)
    every, few = texts.read(TEXT, most=1000), texts.read(TEXT, most=3)
    assert few.firing == every.firing > 3
    assert [found.feature for found in few.features] == [found.feature for found in every.features[:3]]


def test_what_does_not_fit_into_a_context_is_counted(study: Path) -> None:
    read = reader(study).read(TEXT * 9, most=5)
    assert len(read.texts) == CONTEXT_LENGTH - 1
    assert read.cut > 0


def test_text_that_spells_a_special_token_is_text(study: Path) -> None:
    assert len(reader(study).read("<|endoftext|>", most=5).texts) > 1


def test_what_is_not_on_disk_is_one_line(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the text has no token; type a few words"):
        reader(study).read("", most=5)
    folders = study / "dictionaries/crosscoder/run", study / "models", study / "tokenizer/tokenizer.json"
    for place, said in enumerate((r"expected the folder of a trained run", "expected a saved checkpoint", "tokenizer")):
        changed = [*folders]
        changed[place] = tmp_path / "missing"
        with pytest.raises(UserError, match=said) as raised:
            TextReader(*changed, CONTEXT_LENGTH).read(TEXT, most=5)
        assert "\n" not in str(raised.value)
