"""Models and tokenizers out of GGUF files compute and encode what they did before."""

import re
from pathlib import Path

import pytest
import torch
from gguf_files import TOKENS, llama, write_gguf

from ontogeny.config.corpus import GgufTokenizer
from ontogeny.config.gguf import GgufFile, gguf_numbers
from ontogeny.config.models import GgufModel, GgufSource
from ontogeny.config.shapes import ModelShape, model_shape
from ontogeny.errors import UserError
from ontogeny.language_model.bridge import load_model, logits
from ontogeny.language_model.sources import bring_checkpoint
from ontogeny.tokenizer import read_tokenizer
from ontogeny.tokenizer_training import write_tokenizer


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", llama())


@pytest.fixture(scope="module")
def tokenizer(file: Path) -> Path:
    out = file.parent / "tokenizer/tokenizer.json"
    write_tokenizer(GgufTokenizer(source="gguf", path=str(file)), file, out, None)
    return out


def test_a_model_out_of_a_file_computes_what_it_computed_before(file: Path, tokenizer: Path) -> None:
    folder = file.parent / "models/tiny/step1"
    counts = bring_checkpoint(GgufSource(source="gguf", path=str(file)), 1, tokenizer, folder, None)
    assert counts["bytes"] == (folder / "model.safetensors").stat().st_size
    tokens_BT = torch.randint(0, len(TOKENS), (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = llama()(tokens_BT).logits
    torch.testing.assert_close(logits(load_model(folder), tokens_BT), expected, rtol=1e-4, atol=1e-4)


def test_a_tokenizer_out_of_a_file_keeps_ids_merges_and_bos(tokenizer: Path) -> None:
    found = read_tokenizer(tokenizer)
    assert (found.bos_id, found.vocab_size) == (1, len(TOKENS))
    ids = found.tokenizer.encode("the théâtre", add_special_tokens=False).ids
    assert ids[0] == TOKENS.index("the")
    assert found.tokenizer.decode(ids) == "the théâtre"
    assert "<|im_start|>" not in [
        found.tokenizer.id_to_token(id_) for id_ in found.tokenizer.encode("<|im_start|>").ids
    ]


def test_the_shape_is_read_from_the_head_of_the_file(file: Path) -> None:
    model = GgufModel(source="gguf", path=str(file))
    assert model_shape(model) == ModelShape("llama", 2, 32, 48, len(TOKENS))
    assert gguf_numbers(file)["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)


def test_what_is_missing_is_said_in_one_line(file: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "carrier").mkdir(exist_ok=True)
    monkeypatch.syspath_prepend(file.parent)
    (file.parent / "carrier/__init__.py").write_text("raise RuntimeError('nothing of it is run')")
    (file.parent / "carrier/tiny.gguf").write_bytes(file.read_bytes())
    assert list(GgufFile(package="carrier", path="tiny.gguf").problems("models.m")) == []
    for settings, line in (
        ({"package": "nowhere", "path": "a"}, "models.m.package: there is no package 'nowhere' here"),
        ({"package": "carrier", "path": "other.gguf"}, "models.m.path: .*carrier/other.gguf cannot be read"),
        ({"path": str(tokenizer)}, "models.m.path: .*tokenizer.json is no GGUF file"),
    ):
        (problem,) = GgufFile.model_validate(settings).problems("models.m")
        assert re.match(line, problem)


def test_a_file_that_was_found_needs_no_package(file: Path, tokenizer: Path, tmp_path: Path) -> None:
    """As in a job whose environment lacks the package that the workflow's own has."""
    lost = {"source": "gguf", "package": "nowhere", "path": "tiny.gguf"}
    out = tmp_path / "tokenizer/tokenizer.json"
    write_tokenizer(GgufTokenizer.model_validate(lost), file, out, None, gguf=file)
    assert out.read_bytes() == tokenizer.read_bytes()
    source = GgufSource.model_validate(lost)
    bring_checkpoint(source, 1, tokenizer, tmp_path / "models/tiny/step1", None, file)
    with pytest.raises(ValueError, match="there is no package 'nowhere' here"):
        bring_checkpoint(source, 1, tokenizer, tmp_path / "models/tiny/step2", None)


def test_a_file_that_transformers_cannot_read_is_one_line(file: Path, tokenizer: Path) -> None:
    cut = file.parent / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:2000])
    source = GgufSource(source="gguf", path=str(cut))
    with pytest.raises(UserError, match=r"models\.tiny\.path: .*cut\.gguf: transformers cannot read this model"):
        bring_checkpoint(source, 1, tokenizer, file.parent / "models/tiny/step2", None)
    assert not (file.parent / "models/tiny/step2").exists()
