"""Reads profiles from a command line: --min-shapes X:[1,3,28,28] Y:[1,8] --opt-shapes ..."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lanewise.errors import ConfigError
from lanewise.model.tensors import Shape
from lanewise.settings.model import ProfileSettings, ShapeRangeSettings

MIN_SHAPES = "--min-shapes"
OPT_SHAPES = "--opt-shapes"
MAX_SHAPES = "--max-shapes"
SHAPE_OPTIONS = (MIN_SHAPES, OPT_SHAPES, MAX_SHAPES)

_EXAMPLE = f"write for example {MIN_SHAPES} X:[1,3,28,28] Y:[1,8]"
_OPENING = ":["
# A name may hold colons, so it ends at the last one before a bracket.
_SHAPE = re.compile(r"\s*(?P<name>[^\s\[\]]+):\[(?P<sizes>[^\[\]]*)\](?=\s|$)")


def gather_shapes(arguments: Sequence[str]) -> list[str]:
    """Join the shapes that follow a shape option into one argument.

    Parsers of command lines give an option one argument; here it may have several, because
    a shape looks like nothing else: `--min-shapes X:[1,3] Y:[1, 8] model.onnx` becomes
    `--min-shapes`, `X:[1,3] Y:[1, 8]`, `model.onnx`.
    """
    gathered: list[str] = []
    in_run = False
    for argument in arguments:
        option, sign, _ = argument.partition("=")
        if option in SHAPE_OPTIONS:
            gathered.append(argument)
            if not sign:
                gathered.append("")
            in_run = True
        elif in_run and (_OPENING in argument or _is_open(gathered[-1])):
            gathered[-1] = f"{gathered[-1]} {argument}".strip()
        else:
            if in_run and not gathered[-1]:
                gathered.pop()  # leave it to the parser to miss the value
            gathered.append(argument)
            in_run = False
    if in_run and not gathered[-1]:
        gathered.pop()
    return gathered


def parse_shapes(text: str, option: str) -> dict[str, Shape]:
    """Get the shapes (values, for shape tensors) of one `option`, by input.

    Raises:
        ConfigError: `text` is not NAME:[SIZE,SIZE,...] once or more, or repeats a name.
    """
    shapes: dict[str, Shape] = {}
    position = 0
    while text[position:].strip():
        match = _SHAPE.match(text, position)
        if match is None:
            raise ConfigError(
                f"{option}: '{text[position:].strip()}' does not begin with NAME:[SIZE,...]; "
                + _EXAMPLE
            )
        name, sizes = match["name"], match["sizes"]
        if name in shapes:
            raise ConfigError(
                f"{option}: names '{name}' twice; for another profile repeat all three options"
            )
        shapes[name] = _parse_sizes(sizes, name, option)
        position = match.end()
    if not shapes:
        raise ConfigError(f"{option}: has no shapes; {_EXAMPLE}")
    return shapes


def parse_profiles(
    min_shapes: Sequence[str], opt_shapes: Sequence[str], max_shapes: Sequence[str]
) -> tuple[ProfileSettings, ...]:
    """Make a profile of each triple of options, in order; empty if there are no options.

    Raises:
        ConfigError: an option is missing or malformed; the three name different inputs.
    """
    counts = (len(min_shapes), len(opt_shapes), len(max_shapes))
    if len(set(counts)) > 1:
        used = ", ".join(
            f"{option} {count}" for option, count in zip(SHAPE_OPTIONS, counts, strict=True)
        )
        raise ConfigError(
            f"every profile needs all of {', '.join(SHAPE_OPTIONS)}, but they are given "
            f"different numbers of times: {used}"
        )
    triples = zip(min_shapes, opt_shapes, max_shapes, strict=True)
    return tuple(_parse_profile(index, triple) for index, triple in enumerate(triples))


def _parse_profile(index: int, texts: Sequence[str]) -> ProfileSettings:
    corners = [
        parse_shapes(text, option) for option, text in zip(SHAPE_OPTIONS, texts, strict=True)
    ]
    names = list(dict.fromkeys(name for corner in corners for name in corner))
    for name in names:
        for option, corner in zip(SHAPE_OPTIONS, corners, strict=True):
            if name not in corner:
                raise ConfigError(
                    f"{option}: does not name input '{name}' in profile {index}, but others of "
                    "the three do; give it min, opt and max, or none"
                )
    low, opt, high = corners
    return ProfileSettings(
        tensors={n: ShapeRangeSettings(min=low[n], opt=opt[n], max=high[n]) for n in names}
    )


def _parse_sizes(text: str, name: str, option: str) -> Shape:
    if not text.strip():
        return ()
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"{option}: '{name}' has [{text}], but sizes must be integers with commas between; "
            + _EXAMPLE
        ) from error


def _is_open(text: str) -> bool:
    return text.rfind("[") > text.rfind("]")
