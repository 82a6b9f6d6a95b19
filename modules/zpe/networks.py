"""Image-text models: a pair of encoders of one's own size, or any model of open_clip.

Both embed images with `encode_images`, texts with `encode_texts(tokenize(texts))`, and have a `scale` for cosines.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.common.needs import Need
from modules.common.needs import from_hub, own_file, package

log = logging.getLogger(__name__)
PAD, START, END = 0, 1, 2
MAX_SCALE = 100.0  # CLIP clips its scale here
FIRST_SCALE = 1 / 0.07  # CLIP's at the start of training


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), which OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


class Words:
    """Texts to token numbers, a word each; upper case and punctuation are dropped.

    Args:
        vocabulary: all words, separated by blanks.
        context: most tokens of a text, start and end included.
    """

    def __init__(self, vocabulary: str, context: int) -> None:
        self.numbers = {word: number for number, word in enumerate(dict.fromkeys(vocabulary.lower().split()), END + 1)}
        self.context = context

    def __len__(self) -> int:
        return END + 1 + len(self.numbers)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, L), L the length of the longest text; rows end with END and PAD.

        Raises:
            ValueError: a text with an unknown word, or one that is too long.
        """
        rows = []
        for text in texts:
            words = re.findall(r"[a-z0-9]+(?:[-'][a-z0-9]+)*", text.lower())
            if stranger := next((word for word in words if word not in self.numbers), None):
                raise ValueError(f"{text!r}: {stranger!r} is not in the vocabulary")
            rows.append([START, *(self.numbers[word] for word in words), END])
            if len(rows[-1]) > self.context:
                raise ValueError(f"{text!r} has {len(rows[-1])} tokens, but context={self.context}")
        length = max(map(len, rows))
        return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


class TextTransformer(nn.Module):
    """CLIP's text encoder: causal pre-norm transformer, read where the text ends, one linear layer.

    Args:
        vocabulary: number of tokens.
        context: most tokens of a text.
        width, layers, heads: of the transformer; its hidden layers are four times as wide.
        dimension: D, of the embedding.
    """

    def __init__(self, vocabulary: int, context: int, width: int, layers: int, heads: int, dimension: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation=quick_gelu, batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, dimension, bias=False)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, L) -> (n, D). What stands after END changes nothing."""
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positions[:length]  # (n, L, width)
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device, dtype=x.dtype)
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        ends = (tokens == END).int().argmax(1)
        return self.projection(self.norm(x[torch.arange(len(x), device=x.device), ends]))


class Projected(nn.Module):
    """An image network and one linear layer without bias, as in CLIP's image encoder.

    Args:
        network: images to features (B, width).
        width: of the features.
        dimension: D, of the embedding.
    """

    def __init__(self, network: nn.Module, width: int, dimension: int) -> None:
        super().__init__()
        self.network = network
        self.projection = nn.Linear(width, dimension, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.network(x))


class DualEncoder(nn.Module):
    """An image and a text encoder with a learnt scale.

    Args:
        image_encoder: (B, C, H, W) -> (B, D).
        text_encoder: tokens (n, L) -> (n, D).
        tokenizer: texts -> tokens.
    """

    def __init__(self, image_encoder: nn.Module, text_encoder: nn.Module, tokenizer: Words) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.tokenize = tokenizer
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by, at most 100."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def encode_images(self, x: Tensor) -> Tensor:
        return self.image_encoder(x)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        return self.text_encoder(tokens)


def small_dual_encoder(
    image_encoder: nn.Module,
    vocabulary: str,
    dimension: int,
    width: int,
    layers: int,
    heads: int,
    context: int = 16,
    tokens: int | None = None,
) -> DualEncoder:
    """A DualEncoder that knows the words of `vocabulary`.

    Args:
        image_encoder: images -> (B, dimension).
        vocabulary, context: see Words.
        dimension, width, layers, heads: see TextTransformer.
        tokens: number of token embeddings; None takes as many as there are words.
    """
    tokenizer = Words(vocabulary, context)
    text_encoder = TextTransformer(tokens or len(tokenizer), context, width, layers, heads, dimension)
    return DualEncoder(image_encoder, text_encoder, tokenizer)


class OpenClip(nn.Module):
    """A model of open_clip, which is an extra: pip install "reprise-papers[clip]". Loaded when it is first used.

    Only names and tags that open_clip itself lists: what is behind a name of a hub (hf-hub:...) changes without notice,
    and a file may be an archive of code.

    Args:
        model_name: such as ViT-B-16-quickgelu; OpenAI's weights were trained with the quick GELU.
        pretrained: a tag of open_clip, such as openai; null or false gives random weights.
    Raises:
        ValueError: a name or tag of somewhere else.
    """

    def __init__(self, model_name: str, pretrained: str | bool | None = None) -> None:
        super().__init__()
        for key, value in (("model_name", model_name), ("pretrained", pretrained or "none")):
            if not re.fullmatch(r"[A-Za-z0-9][\w-]*", str(value)):
                raise ValueError(f"{key}={value!r}: expected one of open_clip's own, as ViT-B-16-quickgelu and openai")
        self.model_name = model_name
        self.pretrained = pretrained or None
        self._loaded: list[Any] = []  # model and tokenizer, outside the module tree: nothing of it is trained

    def load(self, device: torch.device | None = None) -> Any:
        """(model, tokenizer). Raises ValueError where open_clip is not installed or knows no such model."""
        if not self._loaded:
            try:
                import open_clip
            except ModuleNotFoundError as error:
                raise ValueError('open_clip is not installed: pip install "reprise-papers[clip]"') from error
            try:
                model = open_clip.create_model(self.model_name, pretrained=self.pretrained)
            except RuntimeError as error:
                raise ValueError(f"{self.model_name}, {self.pretrained}: {str(error).splitlines()[0]}") from error
            self._loaded = [model.eval().requires_grad_(False), open_clip.get_tokenizer(self.model_name)]
        if device is not None:
            self._loaded[0] = self._loaded[0].to(device)
        return self._loaded

    @property
    def scale(self) -> Tensor:
        return self.load()[0].logit_scale.exp()

    def encode_images(self, x: Tensor) -> Tensor:
        return self.load(x.device)[0].encode_image(x)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self.load()[1](list(texts))

    def encode_texts(self, tokens: Tensor) -> Tensor:
        return self.load(tokens.device)[0].encode_text(tokens)


def unit(x: Tensor) -> Tensor:
    """Each row of (..., D) at length 1, in single precision."""
    return F.normalize(x.float(), dim=-1)


def open_clip_needs(options: Mapping[str, Any]) -> list[Need]:
    """The package and, where a configuration asks for them, its weights: a tag of open_clip or a file."""
    tag = options.get("pretrained")
    needs = [package("open_clip", extra="clip")]
    if not tag or needs[0].look():
        return needs
    import open_clip

    name = str(options["model_name"])
    config = open_clip.get_pretrained_cfg(name, str(tag))
    if not config:
        return [*needs, own_file(str(tag), f"open_clip knows no weights {tag!r} of {name}")]
    if config.get("hf_hub"):
        repository, file = str(config["hf_hub"]).rsplit("/", 1)
        return [*needs, from_hub(f"{name}, {tag}", repository, (file or "open_clip_model.safetensors",))]
    return [*needs, own_file(str(Path.home() / ".cache/clip" / config["url"].rpartition("/")[2]), config["url"])]


NEEDS = {"OpenClip": open_clip_needs}
