"""ImageNet-1k's classes: their order is the label."""

from __future__ import annotations

from functools import lru_cache


@lru_cache
def imagenet_classes() -> tuple[dict[str, int], tuple[str, ...]]:
    """The class number of each WordNet id, its rank among ImageNet-1k's, and each class's first name.

    Names are for reading: two cranes and two maillots share theirs.
    """
    from timm.data import ImageNetInfo

    known = ImageNetInfo()
    wnids = sorted(known.label_names())
    return {w: n for n, w in enumerate(wnids)}, tuple(known.label_name_to_description(w).split(",")[0] for w in wnids)
