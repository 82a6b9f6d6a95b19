"""Weights that networks start from: which are needed, where they lie, and what is said of those that are missing."""

from __future__ import annotations

import hashlib
from importlib import util
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants

from modules.common import needs as of
from modules.common.needs import from_address, from_hub, own_file, timm_weights, torchvision_weights, user_file


@pytest.fixture(autouse=True)
def nothing_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights that is empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path


def test_weights_by_address_are_compared_with_the_digits_in_their_name(tmp_path: Path) -> None:
    right = hashlib.sha256(b"weights").hexdigest()[:8]
    for digits in (right, "00000000"):
        named = tmp_path / f"net-{digits}.pth"
        named.write_bytes(b"weights")
        need = from_address("net", named.as_uri(), 7)
        assert (need.name, need.source, need.size) == ("net", named.as_uri(), 7)
        assert need.checksum == f"sha256 {digits}..."
        assert need.files == str(tmp_path / "hub" / "checkpoints" / named.name)
        assert need.look() == f"{need.files} is missing; {named.as_uri()}"
        assert need.fetch is not None
        if digits == right:
            need.fetch()
            assert need.look() == ""
        else:
            with pytest.raises(RuntimeError, match="invalid hash value"):
                need.fetch()
            assert need.look()


def test_fetching_says_nothing_of_its_own_and_twice_is_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def download(*arguments: Any, **options: Any) -> None:
        calls.append((*arguments, options))

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    url = "https://example.org/a-b/net-0123abcd.pth"
    fetch = from_address("net", url).fetch
    assert fetch is not None
    fetch()
    fetch()  # the folder is there by now
    target = str(tmp_path / "hub" / "checkpoints" / "net-0123abcd.pth")
    assert calls == [(url, target, {"hash_prefix": "0123abcd", "progress": False})] * 2


def test_torchvisions_weights(tmp_path: Path) -> None:
    needs = torchvision_weights("resnet18")
    assert needs({"pretrained": False}) == []
    (need,) = needs({})
    assert (need.name, need.checksum) == ("resnet18, IMAGENET1K_V1", "sha256 f37072fd...")
    assert need.size == int(44.661 * 2**20)
    assert [n.name for n in torchvision_weights()({"name": "vgg11"})] == ["vgg11, IMAGENET1K_V1"]
    assert [n.name for n in torchvision_weights("resnet50", "IMAGENET1K_V2")({})] == ["resnet50, IMAGENET1K_V2"]
    own = torchvision_weights("alexnet")({"pretrained": str(tmp_path / "e.pt")})
    assert [n.look() for n in own] == [f"{tmp_path / 'e.pt'} is missing; a file of your own"]


def test_timms_weights() -> None:
    needs = timm_weights("name", prefix="timm/")
    assert needs({"name": "timm/resnet18.tv_in1k"}) == []
    assert needs({"name": "timm/resnet18.tv_in1k", "pretrained": False}) == []
    assert needs({"name": "resnet18", "pretrained": True}) == []
    (need,) = needs({"name": "timm/resnet18.tv_in1k", "pretrained": True})
    assert (need.name, need.source) == ("resnet18.tv_in1k", "https://huggingface.co/timm/resnet18.tv_in1k")
    (need,) = timm_weights(default=True)({"model_name": "resnet18.tv_in1k"})
    assert need.name == "resnet18.tv_in1k"
    (none,) = timm_weights(default=True)({"model_name": "resnet19"})
    assert (none.name, none.files, none.source) == ("resnet19", "", "timm")
    assert none.look() == "timm has no weights for 'resnet19'; expected a name with a tag"
    assert of.LIBRARIES["timm.create_model"]({"model_name": "resnet18.tv_in1k"}) == []


def test_timms_weights_without_the_hub_come_from_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    class Config:
        hf_hub_id, hf_hub_filename, url = None, None, "https://example.org/net-01234567.pth"

    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: Config)
    assert of.of_timm("net").source == "https://example.org/net-01234567.pth"
    Config.url = ""
    assert "no weights for 'net'" in of.of_timm("net").look()


def test_any_file_of_a_repository_of_the_hub_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_hub("net", str(tmp_path), ("model.safetensors",)).look() == ""

    kept: dict[str, str] = {}
    fetched: list[tuple[str, str]] = []
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: kept.get(file))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *names: fetched.append(names))
    need = from_hub("net", "them/net", ("model.safetensors", "pytorch_model.bin"))
    assert (need.name, need.files) == ("net", str(tmp_path / "hf"))
    assert need.look() == f"net: no weights in {tmp_path / 'hf'}; https://huggingface.co/them/net"
    assert need.fetch is not None
    need.fetch()
    assert fetched == [("them/net", "model.safetensors")]
    kept["pytorch_model.bin"] = "somewhere"
    assert need.look() == ""


def test_files_of_a_user(tmp_path: Path) -> None:
    needs = user_file("weights", "train them first")
    path = tmp_path / "own.pt"
    assert needs({}) == []
    assert needs({"weights": True}) == []
    assert needs({"weights": str(path), "pretrained": False}) == []
    (need,) = needs({"weights": str(path)})
    assert (need.name, need.files, need.source) == ("own.pt", str(path), "train them first")
    assert need.look() == f"{path} is missing; train them first"
    path.touch()
    assert need.look() == ""
    assert own_file(str(tmp_path)).look(), "a folder is no file of weights"


def test_packages_of_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    need = of.package("open_clip", "zpe")
    assert (need.name, need.files) == ("open_clip", "the environment")
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert need.look() == 'open_clip is not installed: pip install "reprise-papers[zpe]"'
    monkeypatch.setattr(util, "find_spec", lambda name: name == "open_clip")
    assert need.look() == ""


def test_the_inception_of_2015_is_needed_unless_it_is_random() -> None:
    assert of.inception_of_2015({"pretrained": False}) == []
    (need,) = of.inception_of_2015({})
    assert (need.name, need.size) == ("Inception-v3 of 2015", 95 * 2**20)
    assert need.checksum == "sha256 6726825d..."
