"""What model.toml may say about padding, and what comes of it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from helpers.models import profile_entry, tensor
from lanewise.backends.profiles import plan_profiles
from lanewise.errors import ConfigError
from lanewise.model.spec import Padding
from lanewise.model.tensors import DYNAMIC, DType
from lanewise.settings.model import ModelSettings

FILE = Path("repo/m/model.toml")

IDS = tensor("ids", DType.INT32, (DYNAMIC, DYNAMIC))
MASK = tensor("mask", DType.BOOL, (DYNAMIC, DYNAMIC))
WORDS = tensor("words", DType.BYTES, (DYNAMIC, DYNAMIC, 2))
SHARED = tensor("shared", DType.FP32, (3, DYNAMIC))
OUT = tensor("hidden", DType.FP32, (DYNAMIC, DYNAMIC, 4))


def entry(name="only", low=1, opt=24, high=100, mask_high=None):
    top = high if mask_high is None else mask_high
    return profile_entry(
        name,
        ids=[(1, low), (2, opt), (8, high)],
        mask=[(1, low), (2, min(opt, top)), (8, top)],
        words=[(1, low, 2), (2, opt, 2), (8, high, 2)],
        shared=[(3, 1), (3, 1), (3, 9)],
    )


def plan(padding, *entries, top=""):
    text = "\n".join([top, "[padding]", padding, *(entries or [entry()])])
    settings = ModelSettings.model_validate(tomllib.loads(text))
    return plan_profiles([IDS, MASK, WORDS, SHARED], [OUT], settings, FILE)


def problems(*args, **kwargs):
    with pytest.raises(ConfigError) as raised:
        plan(*args, **kwargs)
    lines = str(raised.value).removeprefix(f"{FILE}: ").split("\n")
    return [line.strip() for line in lines if not line.endswith(" problems")]


def lengths(planned):
    return [profile.lengths for profile in planned.profiles]


def test_what_is_left_out_is_padded_with_blanks_and_nothing_is_cut_back():
    planned = plan("inputs = { ids = 1, mask = 1, words = 1 }")

    assert planned.padding == Padding(
        "length", {"ids": 1, "mask": 1, "words": 1}, {"ids": 0, "mask": 0, "words": b""}
    )


def test_everything_that_is_said_is_kept():
    planned = plan(
        """
        dimension = "tokens"
        inputs = { ids = 1, mask = 1, words = 1 }
        values = { ids = -5, mask = true, words = "pad" }
        outputs = { hidden = 1 }
        """
    )

    assert planned.padding == Padding(
        "tokens",
        {"ids": 1, "mask": 1, "words": 1},
        {"ids": -5, "mask": True, "words": b"pad"},
        {"hidden": 1},
    )


def test_without_buckets_a_profile_executes_its_opt_its_max_and_a_few_powers_of_two():
    assert lengths(plan("inputs = { ids = 1 }")) == [(8, 16, 24, 32, 64, 100)]
    assert lengths(plan("inputs = { ids = 1 }", entry(low=20, opt=20))) == [(20, 32, 64, 100)]


def test_a_profile_executes_the_buckets_it_admits_and_its_max():
    planned = plan(
        "inputs = { ids = 1 }\nbuckets = [32, 48, 128]",
        entry("short", high=40),
        entry("long", low=33, opt=64, high=256),
    )

    assert lengths(planned) == [(32, 40), (48, 128, 256)]


def test_inputs_padded_together_have_the_lengths_they_have_in_common():
    planned = plan("inputs = { ids = 1, mask = 1 }", entry(mask_high=60))

    assert lengths(planned) == [(4, 8, 16, 24, 32, 60)]


def test_a_model_without_padding_executes_any_length():
    settings = ModelSettings.model_validate(tomllib.loads(entry()))
    planned = plan_profiles([IDS, MASK, WORDS, SHARED], [OUT], settings, FILE)

    assert (planned.padding, lengths(planned)) == (None, [()])


@pytest.mark.parametrize(
    ("padding", "told"),
    [
        (
            "inputs = { idz = 1 }",
            "padding.inputs.idz: the model has no such input; it has ids [-1, -1], "
            "mask [-1, -1], words [-1, -1, 2], shared [3, -1]",
        ),
        (
            "inputs = { ids = 0 }",
            "padding.inputs.ids: is 0, but in [-1, -1] must be 1 (0 counts rows)",
        ),
        (
            "inputs = { ids = 2 }",
            "padding.inputs.ids: is 2, but in [-1, -1] must be 1 (0 counts rows)",
        ),
        (
            "inputs = { words = 3 }",
            "padding.inputs.words: is 3, but in [-1, -1, 2] must be 1 to 2 (0 counts rows)",
        ),
        (
            "inputs = { words = 2 }",
            "padding.inputs.words: dimension 2 is always 2 in [-1, -1, 2]; only a dynamic one can "
            "be padded",
        ),
        (
            "inputs = { shared = 1 }",
            "padding.inputs.shared: is shared by all rows of a launch, so that it cannot be longer "
            "for some of them",
        ),
        (
            "inputs = { ids = 1 }\noutputs = { Y = 1 }",
            "padding.outputs.Y: the model has no such output; it has hidden [-1, -1, 4]",
        ),
        (
            "inputs = { ids = 1 }\noutputs = { hidden = 2 }",
            "padding.outputs.hidden: dimension 2 is always 4 in [-1, -1, 4]; only a dynamic one "
            "can be padded",
        ),
        (
            "inputs = { ids = 1 }\nvalues = { mask = 0 }",
            "padding.values.mask: is no key of padding.inputs, which are ids",
        ),
        (
            "inputs = { ids = 1 }\nvalues = { ids = 1.5 }",
            "padding.values.ids: is 1.5, but INT32 needs an integer from -2147483648 to 2147483647",
        ),
        (
            "inputs = { mask = 1 }\nvalues = { mask = 0 }",
            "padding.values.mask: is 0, but BOOL needs true or false",
        ),
        (
            "inputs = { words = 1 }\nvalues = { words = 0 }",
            "padding.values.words: is 0, but BYTES needs a string",
        ),
        (
            "inputs = { ids = 1 }\nbuckets = [64, 32]",
            "padding.buckets: is [64, 32], but must ascend",
        ),
        (
            "inputs = { ids = 1 }\nbuckets = [64, 128]",
            "padding.buckets: no profile admits 128; admitted are: 'only' 1 to 100",
        ),
        (
            f"inputs = {{ ids = 1 }}\nbuckets = {list(range(1, 18))}",
            "padding.buckets: has 17 sizes, but 16 are the most",
        ),
    ],
)
def test_what_contradicts_the_model_is_refused_with_what_is_allowed(padding, told):
    assert problems(padding) == [told]


def test_inputs_without_a_length_in_common_are_refused():
    assert problems(
        "inputs = { ids = 1, mask = 1 }",
        entry(low=50, opt=60).replace(
            "tensors.mask = { min = [1, 50], opt = [2, 60], max = [8, 100] }",
            "tensors.mask = { min = [1, 1], opt = [2, 9], max = [8, 9] }",
        ),
    ) == [
        "padding.inputs: profile 'only' admits no number of length in all of them: ids 50 to 100, "
        "mask 1 to 9"
    ]


def test_a_model_whose_requests_run_alone_is_not_padded():
    assert problems("inputs = { ids = 1 }", top="batching = false") == [
        "padding: needs batching, but requests of this model never share a launch"
    ]
