"""The models of a server by name and version, and the state each is in."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from lanewise.errors import Draining, ModelFailed, ModelLoading, ModelNotFound
from lanewise.model.regions import RegionTensor
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Array, Shape
from lanewise.scheduler.costs.table import CostTable
from lanewise.scheduler.request import NO_OPTIONS, RequestOptions
from lanewise.scheduler.results import InferResult, LaneStatus, RouteReport, WhenEnded

ALL, ANY = "all", "any"
"""Which models must be ready for the server to be; otherwise names, with commas between."""


class Lanes(Protocol):
    """What serves one version of a model, in this process or in another."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def lost_profiles(self) -> tuple[str, ...]: ...

    @property
    def hung_profiles(self) -> tuple[str, ...]: ...

    async def submit(
        self, inputs: Mapping[str, Array | RegionTensor], options: RequestOptions = NO_OPTIONS
    ) -> InferResult: ...


class LocalLanes(Lanes, Protocol):
    """Lanes that are in this process: those of a `Dispatcher`."""

    @property
    def waiting_requests(self) -> int: ...

    def status(self) -> tuple[LaneStatus, ...]: ...

    @property
    def costs(self) -> CostTable: ...

    def explain(
        self, shapes: Mapping[str, Shape], profile: str | int | None = None
    ) -> RouteReport: ...

    def begin(
        self,
        inputs: Mapping[str, Array | RegionTensor],
        when_ended: WhenEnded,
        options: RequestOptions = NO_OPTIONS,
    ) -> Callable[[], None]: ...


class ModelState(enum.Enum):
    """How far a version of a model has come."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


@dataclass(slots=True)
class ServedModel:
    """One version of a model in the registry.

    Attributes:
        version: a positive number; empty for a model that failed because it has none.
        reason: why it failed; empty otherwise.
        lanes: set once the model has been loaded.
    """

    name: str
    version: str
    state: ModelState = ModelState.LOADING
    reason: str = ""
    lanes: Lanes | None = None

    @property
    def title(self) -> str:
        return f"{self.name} {self.version or '-'}"

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests, and each of its profiles has a lane that can run them."""
        if self.state is not ModelState.READY or self.lanes is None:
            return self.state is ModelState.READY
        return not self.lanes.lost_profiles and not self.lanes.hung_profiles

    @property
    def condition(self) -> str:
        """State and reason, for people; on one line if the reason is."""
        if self.state is ModelState.READY and self.lanes is not None and not self.is_ready:
            lost, hung = self.lanes.lost_profiles, self.lanes.hung_profiles
            if not lost:
                return f"launches hang in the lanes of {', '.join(hung)}"
            return f"lost the lanes of {', '.join(lost)}"
        return self.state.value + (f": {self.reason}" if self.reason else "")

    def require_lanes(self) -> Lanes:
        """Get the lanes of a model that was loaded, draining or not.

        Raises:
            ModelLoading, ModelFailed: it has none.
        """
        if self.lanes is not None:
            return self.lanes
        title = f"model '{self.name}'" + (f" version {self.version}" if self.version else "")
        if self.state is ModelState.FAILED:
            raise ModelFailed(f"{title} did not load: {self.reason}")
        raise ModelLoading(f"{title} is being loaded; try again when it is ready")

    def require_ready(self) -> Lanes:
        """Get the lanes of a model that takes requests.

        Raises:
            ModelLoading, ModelFailed, Draining: it takes none.
        """
        lanes = self.require_lanes()
        if self.state is ModelState.DRAINING:
            raise Draining("the server is draining and takes no new requests; try another replica")
        return lanes


class ModelRegistry:
    """Every version of every model found at start.

    Changed on the event loop alone: by `app`, or in a front end of its own by its link.
    """

    def __init__(self, ready_when: str = ALL) -> None:
        """Make one without models; `ready_when` as in `ServerSettings`."""
        self._ready_when = ready_when
        self._models: dict[str, dict[str, ServedModel]] = {}
        self._draining = False

    def __iter__(self) -> Iterator[ServedModel]:
        """Iterate over models by name, versions in ascending order."""
        for name in sorted(self._models):
            yield from self.versions(name)

    def add(self, model: ServedModel) -> None:
        """Add a version of a model; replaces one of the same name and version."""
        versions = self._models.get(model.name, {}) | {model.version: model}
        ascending = sorted(versions.values(), key=lambda each: int(each.version or 0))
        self._models[model.name] = {each.version: each for each in ascending}

    def replace(self, models: Iterable[ServedModel]) -> None:
        """Have these models instead of all there were; nothing is draining any more."""
        models = list(models)
        self._models.clear()
        self._draining = False
        for model in models:
            self.add(model)

    def versions(self, name: str) -> list[ServedModel]:
        """List the versions of a model in ascending order; empty if there is no such model."""
        return list(self._models.get(name, {}).values())

    def resolve(self, name: str, version: str = "", *, field: str = "name") -> ServedModel:
        """Get a version of a model; without `version` the one that is served by default.

        That is the highest that is ready, so that a broken new version hides no sound old one.
        If none is: the highest that was loaded, or else is being loaded, or else failed.

        `field` is where the request has `name`, for messages.

        Raises:
            ModelNotFound: the message lists what there is.
        """
        versions = self._models.get(name)
        if not versions:
            known = ", ".join(f"'{known}'" for known in sorted(self._models)) or "none"
            problem = f"no model '{name}'" if name else f"{field} is empty"
            raise ModelNotFound(f"{problem}; this server has: {known}")
        if not version:
            newest = versions[next(reversed(versions))]
            return newest if len(versions) == 1 else self._default(versions)
        if version in versions:
            return versions[version]
        listed = ", ".join(known or "none" for known in versions)
        raise ModelNotFound(f"model '{name}' has no version '{version}'; this server has: {listed}")

    @staticmethod
    def _default(versions: Mapping[str, ServedModel]) -> ServedModel:
        newest_first = reversed(list(versions.values()))
        return max(  # the first of equal ones
            newest_first,
            key=lambda each: (
                each.is_ready,
                each.lanes is not None,
                each.state is not ModelState.FAILED,
            ),
        )

    @property
    def is_draining(self) -> bool:
        return self._draining

    @property
    def is_ready(self) -> bool:
        """Whether the models that must be ready are: all, any, or those of certain names.

        A model is when the version it is served by is ready, and none is being loaded. One that
        failed does not count beside one that is ready: a new version that is broken takes
        nothing from the clients of the old one. False without models, and while draining.
        """
        names = list(self._models)
        if self._draining or not names:
            return False
        if self._ready_when == ANY:
            return any(map(self._is_model_ready, names))
        needed = names if self._ready_when == ALL else self._ready_when.split(",")
        return all(map(self._is_model_ready, needed))

    @property
    def missing(self) -> list[str]:
        """The models that must be ready for the server to be, and are not there at all."""
        if self._ready_when in {ALL, ANY}:
            return []
        return [name for name in self._ready_when.split(",") if name not in self._models]

    def _is_model_ready(self, name: str) -> bool:
        versions = self._models.get(name, {}).values()
        is_loading = any(each.state is ModelState.LOADING for each in versions)
        return bool(versions) and not is_loading and self.resolve(name).is_ready

    def drain(self) -> None:
        """Turn every ready or loading model to draining; nothing is ready from here on."""
        self._draining = True
        for model in self:
            if model.state in (ModelState.READY, ModelState.LOADING):
                model.state = ModelState.DRAINING
