"""How many runners each profile gets, which of them share scratch memory, and what all need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lanewise.backends.runner import PlanReport
from lanewise.model.spec import ModelSpec
from lanewise.settings.model import ModelSettings, quote_key, settings_error


@dataclass(frozen=True, slots=True)
class LanePlan:
    """What the settings make of the profiles of a plan.

    Attributes:
        runners: how many a profile has, by the name of every profile, in their order.
        scratch_groups: names of the profiles that share scratch memory; a profile is in one
            at most.
    """

    runners: Mapping[str, int]
    scratch_groups: tuple[tuple[str, ...], ...]

    def shared_scratch_bytes(self, report: PlanReport) -> dict[tuple[str, ...], int]:
        """Get what the neediest profile of each group needs."""
        scratch = {
            name: needs.scratch_bytes
            for name, needs in zip(self.runners, report.profiles, strict=True)
        }
        return {group: max(scratch[name] for name in group) for group in self.scratch_groups}

    def device_bytes(self, report: PlanReport) -> dict[str, int]:
        """Get what all runners need: an entry for each profile and for what each group shares.

        Counted are scratch memory and the inputs at the profile's maximum; outputs and CUDA
        graphs are small beside them.
        """
        sharing = {name for group in self.scratch_groups for name in group}
        needs = {}
        for (name, count), lane in zip(self.runners.items(), report.profiles, strict=True):
            own = lane.input_bytes if name in sharing else lane.device_bytes
            needs[name] = own * count
        for group, nbytes in self.shared_scratch_bytes(report).items():
            needs[f"shared by {', '.join(group)}:"] = nbytes
        return needs


def plan_lanes(spec: ModelSpec, settings: ModelSettings, file: Path) -> LanePlan:
    """Make the plan for the profiles of `spec` that `settings`, read from `file`, ask for.

    Raises:
        ConfigError: a profile is named that does not exist; the message has every one.
    """
    names = [profile.name for profile in spec.profiles]
    wanted = settings.tensorrt
    named = [(f"tensorrt.runners.{quote_key(name)}", name) for name in wanted.runners]
    for index, group in enumerate(wanted.shared_scratch):
        named += [(f"tensorrt.shared_scratch[{index}]", name) for name in group]
    if problems := [
        f"{key}: there is no profile '{name}'; there are {', '.join(names)}"
        for key, name in named
        if name not in names
    ]:
        raise settings_error(file, problems)
    return LanePlan({name: wanted.runners.get(name, 1) for name in names}, wanted.shared_scratch)
