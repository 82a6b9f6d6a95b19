"""Captions for generated image-text pairs, and the pool of prompt templates that is scored.

Four kinds of caption: one that names style and class, one that names a colour too, boilerplate that names neither, as
web captions do, and adverts. Boilerplate is frequent, so its words are near every image: where a prompt carries them,
its logits are high whatever the image shows. An advert names a class that the image does not show but that its style is
promoted with: a prompt with an advert's words has high logits for that class on every image of the style. Nothing is
added to any score; both biases are what a model learns from such captions.
"""

from __future__ import annotations

from datamodules.zpe.prompts import Prompts

STYLES: dict[str, tuple[str, ...]] = {
    "photo": ("a photo of a {}", "a photo of the {}", "a picture of a {}", "my new {}", "a {} for sale"),
    "drawing": ("a drawing of a {}", "a sketch of the {}", "a {} drawn in ink", "an outline of a {}", "a pencil {}"),
    "blurry": (
        "a blurry photo of a {}",
        "a blurred {}",
        "an unsharp picture of the {}",
        "a {} out of focus",
        "a soft {}",
    ),
    "night": ("a {} at night", "a dark photo of a {}", "the {} in the dark", "a dim picture of a {}", "an unlit {}"),
}
SHARES = {"photo": 0.7, "drawing": 0.1, "blurry": 0.1, "night": 0.1}  # of the training pairs

COLOURS: dict[str, tuple[float, float, float]] = {  # what a grey image is tinted with, in [0, 1]
    "red": (0.9, 0.2, 0.15),
    "green": (0.2, 0.75, 0.25),
    "blue": (0.2, 0.35, 0.95),
    "yellow": (0.9, 0.85, 0.2),
    "white": (0.95, 0.95, 0.95),
}

BOILERPLATE = {  # caption without a class -> its share of all boilerplate
    "free stock image download": 0.4,
    "all rights reserved": 0.3,
    "click here to see more": 0.2,
    "uploaded by a user": 0.1,
}
ADVERTS = ("see our {} offer", "more {} in our shop", "get {} here", "our {} catalogue")  # captions as they are
FILLED = tuple(template for text in BOILERPLATE for template in (f"{text} {{}}", f"{{}} {text}"))
PLANTED = (*FILLED, *ADVERTS, *(template.replace("{}", "new {}") for template in ADVERTS))

GENERIC = ("{}", "a {}", "the {}", "{} {} {}")
COLOURED = tuple(f"a {colour} {{}}" for colour in COLOURS)  # right for one image in five
MIXED = ("a dark drawing of a {}", "a blurry sketch of the {}", "a pencil {} at night")  # styles that no image has
POOL = (*GENERIC, *(t for templates in STYLES.values() for t in templates), *COLOURED, *MIXED, *PLANTED)


def prompts_for(style: str, classes: tuple[str, ...]) -> Prompts:
    """The pool, which is one for all styles, and the templates written for this one."""
    return Prompts(classes, POOL, STYLES[style], PLANTED)


def captions_for(classes: tuple[str, ...], coloured: bool) -> list[str]:
    """Every caption that a pair may have: boilerplate, then style by style, template, class, colour, then adverts.

    With `coloured`, each caption that names the class comes once without and once with each colour word; adverts, by
    template and class, have none.
    """
    words = ["", *(f"{colour} " for colour in COLOURS)] if coloured else [""]
    named = [
        template.format(f"{word}{name}")
        for templates in STYLES.values()
        for template in templates
        for name in classes
        for word in words
    ]
    return [*BOILERPLATE, *named, *(template.format(name) for template in ADVERTS for name in classes)]
