"""A crosscoder applied to raw activations, before and after it was a file."""

import json
from pathlib import Path

import pytest
import torch
from crosscoder_runs import sites_of
from devices import on_every_device
from disk_limits import file_size_limit
from safetensors.torch import load_file
from torch import Tensor

from ontogeny.crosscoder.model import Crosscoder, load_crosscoder, save_crosscoder
from ontogeny.errors import UserError

KINDS = [
    ("relu", "shared", None),
    ("topk", "shared", 4),
    ("batchtopk", "shared", 4),
    ("jumprelu", "shared", None),
    ("jumprelu", "site", None),
]

DESCRIPTION = {"dictionary": "d", "run": "r", "sparsity": 4.0, "seed": 0, "tokens": 99, "study": None, "versions": "v"}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def crosscoder_of(nonlinearity: str, gate: str, k: int | None, sites: int = 3) -> Crosscoder:
    """Make one with sites of norms 3, 30 and 300, one of them centred."""
    crosscoder = Crosscoder(sites_of(sites), 8, 20, nonlinearity, gate, k)
    with torch.no_grad():
        for seed, parameter in enumerate(crosscoder.parameters()):
            parameter.copy_(0.5 * random(*parameter.shape, seed=seed + 1))
        crosscoder.scales.copy_(torch.tensor([8**0.5 / 3 / 10**site for site in range(sites)]))
        crosscoder.centers[0] = random(8, seed=30)
        if crosscoder.threshold is not None:
            crosscoder.threshold.copy_(0.5 + random(*crosscoder.threshold.shape, seed=31).abs())
    return crosscoder


def raw_rows(sites: int = 3) -> Tensor:
    norms = torch.tensor([3.0 * 10**site for site in range(sites)])
    return random(50, sites, 8, seed=40) * norms[:, None] / 8**0.5


@on_every_device
@pytest.mark.parametrize(("nonlinearity", "gate", "k"), KINDS)
def test_encode_and_decode_are_the_plain_expressions_of_the_design(
    nonlinearity: str, gate: str, k: int | None, device: str
) -> None:
    crosscoder = crosscoder_of(nonlinearity, gate, k).to(device, torch.float64)
    raw_BSD = raw_rows().to(device, torch.float64)
    x_BSD = crosscoder.scales[:, None] * (raw_BSD - crosscoder.centers)
    h_BL = sum(x_BSD[:, s] @ crosscoder.W_enc[s] for s in range(3)) + crosscoder.b_enc
    n_LS = crosscoder.W_dec.square().sum(-1).sqrt()
    h_BSL, added_BSL = h_BL[:, None].expand(-1, 3, -1), h_BL[:, None] * n_LS.sum(1)
    if gate == "site":
        added_BSL = h_BL[:, None] * n_LS.T
    if nonlinearity in ("jumprelu", "batchtopk"):
        least = crosscoder.thresholds()
    else:
        least = added_BSL.topk(k, dim=-1).values[..., -1:] - 1e-9 if k else torch.zeros(1, device=device)
    f_BSL = torch.where(added_BSL > least.clamp_min(0.0), h_BSL, 0.0)
    f = crosscoder.encode(raw_BSD)
    torch.testing.assert_close(f, f_BSL if gate == "site" else f_BSL[:, 0])
    assert 0.05 < (f > 0).double().mean() < 0.95
    x_hat_BSD = torch.einsum("bsl,lsd->bsd", f_BSL, crosscoder.W_dec) + crosscoder.b_dec
    expected_BSD = x_hat_BSD / crosscoder.scales[:, None] + crosscoder.centers
    torch.testing.assert_close(crosscoder.decode(f), expected_BSD)
    torch.testing.assert_close(crosscoder(raw_BSD), expected_BSD)


@pytest.mark.parametrize(("nonlinearity", "gate", "k"), KINDS)
def test_a_loaded_file_gives_the_same_code_and_output_for_raw_activations(
    nonlinearity: str, gate: str, k: int | None, tmp_path: Path
) -> None:
    crosscoder, raw_BSD = crosscoder_of(nonlinearity, gate, k), raw_rows()
    save_crosscoder(tmp_path, crosscoder, DESCRIPTION)
    loaded = load_crosscoder(tmp_path)
    assert torch.equal(loaded.encode(raw_BSD), crosscoder.encode(raw_BSD))
    assert torch.equal(loaded(raw_BSD), crosscoder(raw_BSD))
    assert loaded.sites == crosscoder.sites
    assert loaded.gate == gate


@on_every_device
@pytest.mark.parametrize(("nonlinearity", "gate", "k"), KINDS)
def test_a_row_is_encoded_alike_in_any_batch(nonlinearity: str, gate: str, k: int | None, device: str) -> None:
    crosscoder = crosscoder_of(nonlinearity, gate, k).to(device, torch.float64)
    raw_BSD = raw_rows().to(device, torch.float64)
    alone = torch.cat([crosscoder.encode(row_SD[None]) for row_SD in raw_BSD])
    torch.testing.assert_close(crosscoder.encode(raw_BSD), alone)


def test_a_plain_autoencoder_is_a_crosscoder_over_one_site(tmp_path: Path) -> None:
    crosscoder, raw_BSD = crosscoder_of("topk", "shared", 4, sites=1), raw_rows(1)
    save_crosscoder(tmp_path, crosscoder, DESCRIPTION)
    assert torch.equal(load_crosscoder(tmp_path)(raw_BSD), crosscoder(raw_BSD))
    assert (crosscoder.encode(raw_BSD) > 0).sum(1).tolist() == [4] * 50


def test_files_hold_what_the_design_says(tmp_path: Path) -> None:
    crosscoder = crosscoder_of("jumprelu", "site", None)
    save_crosscoder(tmp_path, crosscoder, DESCRIPTION)
    tensors = load_file(tmp_path / "crosscoder.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {"W_enc": (3, 8, 20), "b_enc": (20,), "W_dec": (20, 3, 8), "b_dec": (3, 8), "threshold": (20,)}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["sites"][1] == {"model": "neox", "step": 1, "hook": "blocks.2.hook_resid_post"}
    assert config["scales"] == crosscoder.scales.tolist()
    assert config["centers"] == [crosscoder.centers[0].tolist(), None, None]
    assert {key: config[key] for key in ("nonlinearity", "gate", "k", "latents")} == {
        "nonlinearity": "jumprelu",
        "gate": "site",
        "k": None,
        "latents": 20,
    }
    assert {key: config[key] for key in DESCRIPTION} == DESCRIPTION


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    found = set()
    for number in range(8):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_crosscoder(folder, crosscoder_of("batchtopk", "shared", 4), DESCRIPTION)
        found.add((folder / "crosscoder.safetensors").read_bytes() + (folder / "config.json").read_bytes())
    assert len(found) == 1


def test_damaged_or_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json: no such file; expected the folder of a trained run"):
        load_crosscoder(tmp_path)
    save_crosscoder(tmp_path, crosscoder_of("topk", "shared", 4), DESCRIPTION)
    weights, config = tmp_path / "crosscoder.safetensors", tmp_path / "config.json"
    whole, described = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"crosscoder\.safetensors: cannot be read"):
        load_crosscoder(tmp_path)
    weights.write_bytes(whole)
    config.write_text(described.replace('"latents": 20', '"latents": 21'))
    with pytest.raises(UserError, match=r"holds .*\(20,\).* describes .*\(21,\)"):
        load_crosscoder(tmp_path)
    config.write_text(described.replace('"scales"', '"scale"'))
    with pytest.raises(UserError, match="key 'scales' is missing"):
        load_crosscoder(tmp_path)
    config.write_text(described[:40])
    with pytest.raises(UserError, match=r"config\.json: no JSON"):
        load_crosscoder(tmp_path)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"crosscoder\.safetensors: the disk is full") as raised, file_size_limit(1000):
        save_crosscoder(tmp_path, crosscoder_of("topk", "shared", 4), DESCRIPTION)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
