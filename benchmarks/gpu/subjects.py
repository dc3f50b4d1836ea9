"""The models that are measured, and the requests they are measured with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
from numpy.typing import NDArray

Inputs = Mapping[str, NDArray[Any]]

ROWS = (1, 1, 1, 2, 3, 4, 5, 8, 17, 32, 128)
"""Of the requests of a soak; each is as likely as the others."""

BULK_ROWS = 128
SHORT, LONG = 32, 128  # tokens


@dataclass(frozen=True)
class Subject:
    """A model with profiles "online", "dynamic" and "offline", in this order.

    Attributes:
        items: what its rows are, in the plural.
        save: writes the ONNX file and model.toml into a folder.
        few: makes requests of that many rows, of the size that somebody waits for.
        bulk: makes requests of that many rows, of the size that bulk work has.
        soak: requests of a soak.
        soak_share: how much of the soak's length is enough for this model.
    """

    title: str
    items: str
    save: Callable[[Path], Path]
    few: Callable[[int], Inputs]
    bulk: Callable[[int], Inputs]
    soak: tuple[Inputs, ...]
    soak_share: float = 1.0


def resnet() -> Subject:
    """ResNet-50 on images of 224 x 224."""
    by_rows = {rows: models.images(rows) for rows in ROWS}
    return Subject(
        title="ResNet-50",
        items="images",
        save=functools.partial(models.save_resnet, profiles=models.resnet_profiles()),
        few=models.images,
        bulk=models.images,
        soak=tuple(by_rows[rows] for rows in ROWS),
    )


def bert() -> Subject:
    """A BERT encoder on texts of 32 tokens, and of 128 where it is bulk work."""
    return Subject(
        title="BERT",
        items="sequences",
        save=functools.partial(models.save_bert, profiles=models.bert_profiles()),
        few=functools.partial(models.texts, tokens=SHORT),
        bulk=functools.partial(models.texts, tokens=LONG),
        soak=tuple(models.texts(rows, tokens) for rows in ROWS for tokens in (SHORT, LONG)),
        soak_share=0.2,
    )
