"""Which profiles admit the values of a request's shape tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lanewise.errors import NoProfileAdmits
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import Piece, format_shape, on_host
from lanewise.scheduler.routing import Route

_Values = Mapping[str, tuple[int, ...]]


def admit_values(route: Route, spec: ModelSpec, inputs: Mapping[str, Piece]) -> Route:
    """Leave the profiles out of `route` that do not admit the values of the shape tensors.

    Args:
        route: of a request to the model, by its shapes.
        spec: of the model.
        inputs: of the request, by name. Only shape tensors are read.

    Raises:
        NoProfileAdmits: none is left; the message lists what each profile of `route` admits.
    """
    names = spec.profiles[0].values  # the same for every profile: a property of the engine
    if not names:
        return route
    sent = {name: tuple(on_host(inputs[name]).reshape(-1).tolist()) for name in names}
    fits = [i for i in route.fits if not _find_problem(spec.profiles[i], sent)]
    if not fits:
        raise _no_profile_admits(spec, [spec.profiles[i] for i in route.fits], sent)
    return replace(route, fits=tuple(fits))


def _find_problem(profile: Profile, sent: _Values) -> str:
    """Say which value `profile` does not admit; "" if it admits all."""
    for name, values in sent.items():
        limits = profile.values[name]
        for place, (low, value, high) in enumerate(
            zip(limits.min, values, limits.max, strict=True)
        ):
            if not low <= value <= high:
                return f"value {place} of '{name}' is {value}, it admits {low} to {high}"
    return ""


def _no_profile_admits(spec: ModelSpec, profiles: list[Profile], sent: _Values) -> NoProfileAdmits:
    listed = ", ".join(f"'{name}' {format_shape(values)}" for name, values in sent.items())
    reasons = "".join(
        f"\n  '{profile.name}' (index {profile.index}): {_find_problem(profile, sent)}"
        for profile in profiles
    )
    return NoProfileAdmits(
        f"model '{spec.name}': no profile that admits the request's shapes admits the values of "
        f"its shape tensors, {listed}; send values within a range, or add a profile for "
        f"these{reasons}"
    )
