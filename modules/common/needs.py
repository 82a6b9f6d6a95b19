"""Weights that networks start from, as needs (datamodules.common.needs): torchvision's, timm's, a user's own files.

Each function here gives what stands in NEEDS beside a network: from the arguments of its configuration to its needs.
Nothing is needed where `pretrained` is false.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

from datamodules.common.needs import Need

Needs = Callable[[Mapping[str, Any]], list[Need]]
MIB = 2**20
WEIGHTS_OF_2015 = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def torchvision_weights(network: str | None = None, tag: str = "IMAGENET1K_V1") -> Needs:
    """Of a network of torchvision; None takes it from the configuration's `name`. A text as `pretrained` is a file."""

    def needs(options: Mapping[str, Any]) -> list[Need]:
        pretrained = options.get("pretrained", True)
        if isinstance(pretrained, str):
            return [own_file(pretrained)]
        return [of_torchvision(network or str(options["name"]), tag)] if pretrained else []

    return needs


def of_torchvision(network: str, tag: str = "IMAGENET1K_V1") -> Need:
    from torchvision import models

    weights = models.get_model_weights(network)[tag]
    size = weights.meta.get("_file_size")
    return from_address(f"{network}, {tag}", weights.url, int(size * MIB) if size else None)


def from_address(name: str, url: str, size: int | None = None) -> Need:
    """A file that torch.hub keeps; its name ends with the first digits of its SHA-256, which are compared."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    digits = path.stem.rpartition("-")[2]

    def fetch() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=False)

    return Need(name, str(path), _is_file(path, url), url, checksum=f"sha256 {digits}...", size=size, fetch=fetch)


def timm_weights(key: str = "model_name", prefix: str = "", default: bool = False) -> Needs:
    """Of a network of timm, which the configuration names under `key`, after a prefix.

    Args:
        default: whether there are weights where the configuration does not say `pretrained`.
    """

    def needs(options: Mapping[str, Any]) -> list[Need]:
        name = str(options[key])
        wanted = options.get("pretrained", default) and name.startswith(prefix)
        return [of_timm(name.removeprefix(prefix))] if wanted else []

    return needs


def of_timm(name: str) -> Need:
    """timm's weights come from the Hugging Face hub, or from an address where the hub does not have them."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        return Need(name, "", lambda: f"timm has no weights for {name!r}; expected a name with a tag", "timm")
    if not config.hf_hub_id:
        return from_address(name, str(config.url))
    return from_hub(name, config.hf_hub_id, (config.hf_hub_filename or "model.safetensors", "pytorch_model.bin"))


def from_hub(name: str, repository: str, files: Sequence[str]) -> Need:
    """A file of the Hugging Face hub, any one of these; a folder on this machine as `repository` passes."""
    import huggingface_hub
    from huggingface_hub import constants

    def look() -> str:
        if Path(repository).is_dir():
            return ""
        kept = [huggingface_hub.try_to_load_from_cache(repository, file) for file in files]
        here = any(isinstance(path, str) for path in kept)
        return "" if here else f"{name}: no weights in {constants.HF_HUB_CACHE}; {source}"

    def fetch() -> None:
        huggingface_hub.hf_hub_download(repository, files[0])

    source = f"https://huggingface.co/{repository}"
    return Need(name, constants.HF_HUB_CACHE, look, source, fetch=fetch)


def user_file(key: str, source: str) -> Needs:
    """A file of the user's that the configuration names under `key`; true and false name none."""

    def needs(options: Mapping[str, Any]) -> list[Need]:
        path = options.get(key)
        return [own_file(path, source)] if isinstance(path, str) and options.get("pretrained", True) else []

    return needs


def own_file(path: str, source: str = "a file of your own") -> Need:
    return Need(Path(path).name, path, _is_file(Path(path), source), source)


def package(name: str, extra: str) -> Need:
    """A package that an extra of this project installs."""
    install = f'pip install "reprise-papers[{extra}]"'
    return Need(name, "the environment", lambda: "" if util.find_spec(name) else f"{name} is not installed: {install}")


def inception_of_2015(options: Mapping[str, Any]) -> list[Need]:
    """What `fid` is computed with."""
    wanted = options.get("pretrained", True)
    return [from_address("Inception-v3 of 2015", WEIGHTS_OF_2015, 95 * MIB)] if wanted else []


def _is_file(path: Path, source: str) -> Callable[[], str]:
    return lambda: "" if path.is_file() else f"{path} is missing; {source}"


# Networks that a configuration takes from a library by their own name.
LIBRARIES: dict[str, Needs] = {"timm.create_model": timm_weights()}
