"""Which detectors are live. A new version is loaded beside the old one, proven, and swapped in; one that fails is refused,
and what served before goes on serving."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from service import log, signature
from service.bundle import check_name, closed_folders, current_version, list_models, list_versions, read_file
from service.errors import Problem, not_ready
from service.live import Live, load
from service.manifest import CURRENT, NAME, REPORT, BundleError, ProviderError
from service.metrics import Metrics
from service.refusals import Refusal, Seen, look
from service.settings import Settings
from service.shadow import Shadow

T = TypeVar("T")
Given = TypeVarTuple("Given")


class Registry:
    """The live models by name, and a few pinned versions. All methods belong to the event loop; loading happens in a thread of
    its own, so that nobody who only asks what is there waits for a load that hangs."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._folder = settings.models_dir
        self._live: dict[str, Live] = {}
        self._pinned: OrderedDict[tuple[str, str], Live] = OrderedDict()
        self._refused: dict[str, Refusal] = {}  # by name, where CURRENT was
        self._pinned_refused: dict[tuple[str, str], Refusal] = {}  # by name and version, where a request asked for it
        self._unready: str | None = None  # why no score could be given when that was last looked at
        self._blind: str | None = None  # why new versions could not be looked for the last time
        self._gone: set[str] = set()  # the live models that had no CURRENT then
        self._loader = ThreadPoolExecutor(1, "loader")
        self._one_at_a_time = asyncio.Lock()
        self._poll: asyncio.Task[None] | None = None
        self.shadow = Shadow(*settings.shadow, metrics) if settings.shadow is not None else None
        self._shadow_loading: asyncio.Task[None] | None = None
        metrics.served = lambda: [(m.name, m.version, m.detector.manifest.score_kind, m.detector.provider) for m in self]
        metrics.refused = lambda: {name: name in self._refused for name in self.names()}
        metrics.models_unreadable = lambda: self._blind is not None
        metrics.gpu_lost = lambda: sum(live.detector.gpu_lost is not None for live in self)
        metrics.watched = lambda: [(m.name, m.version, m.watch) for m in self.loaded()]

    def __iter__(self) -> Iterator[Live]:
        return iter(sorted(self._live.values(), key=lambda live: live.name))

    def loaded(self) -> list[Live]:
        """The live versions and those that are pinned."""
        return [*self, *self._pinned.values()]

    async def start(self) -> None:
        """Loads every published model, and begins to look for new ones.

        Raises ProviderError where cuda was asked for in vain, BundleError where a trusted key cannot be used.
        """
        if self._settings.trusted_keys:
            signature.read_keys(self._settings.trusted_keys)
        await self.refresh()
        lost = next((refusal.reason for refusal in self._refused.values() if refusal.lacks_provider), None)
        if lost:
            raise ProviderError(lost)
        self._look_for_shadow()
        if self._settings.reload_seconds:
            self._poll = asyncio.get_running_loop().create_task(self._poll_for_ever())

    async def stop(self) -> None:
        """Ends the looking."""
        for task in (self._poll, self._shadow_loading):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self.shadow is not None:
            await asyncio.to_thread(self.shadow.close)
        self._loader.shutdown(wait=False, cancel_futures=True)

    def default(self) -> Live:
        """The model of /score; raises the 404 or the 503 that tells why there is none."""
        name = self._settings.model
        if name is not None:
            return self.get(name)
        # One that was refused counts: else another model would answer while that one is mended.
        if len(self._live) == 1 and not self._refused.keys() - self._live.keys():
            return next(iter(self._live.values()))
        if self._live:
            n = len(self.names())
            detail = f"There are {n} models and none is the default: set ANOMALY_MODEL, or post to /models/NAME/score."
            raise Problem("no_default_model", detail)
        detail = "No published model can be used." if self._refused else "No model is published."
        raise self._not_ready(self._blind or detail, self._refused.keys())

    def get(self, name: str) -> Live:
        """The served version of a model; raises the 404, or the 503 where one is published but cannot be used."""
        live = self._live.get(name)
        if live is not None:
            return live
        if name in self._refused:
            raise self._not_ready(f"Model '{name}' has no usable version.", [name])
        if name == self._settings.model:
            raise self._not_ready(self._blind or f"Model '{name}' is not published yet.")
        raise Problem("model_not_found", "No model of this name is published: see GET /models.")

    async def find(self, pattern: re.Pattern[str], path: str) -> Live:
        """The version that a path names, by the groups (name, version) of its pattern; without a version, the served one."""
        found = pattern.fullmatch(path)
        name, version = found.groups() if found else ("", None)
        return self.get(name) if version is None else await self.get_version(name, version)

    async def get_version(self, name: str, version: str) -> Live:
        """A published version, served or not; raises the 404, or the 503 of a bundle that cannot be used."""
        live = self._live.get(name)
        if live is not None and live.version == version:
            return live
        key = (name, version)
        if key in self._pinned:
            self._pinned.move_to_end(key)
            return self._pinned[key]
        async with self._one_at_a_time:
            live = self._live.get(name)
            if live is not None and live.version == version:  # what was waited for has loaded this very version
                return live
            if key not in self._pinned:
                versions = await self._in_thread(list_versions, self._folder, name) if NAME.fullmatch(name) else []
                if not versions:
                    raise Problem("model_not_found", "No model of this name is published: see GET /models.")
                if version not in versions:
                    raise Problem("version_not_found", "No such version is published: see GET /models/NAME.")
                seen, refusal = await self._in_thread(look, self._folder / name / version), self._pinned_refused.get(key)
                unusable = self._not_ready(f"Version {version} of model '{name}' cannot be used; the log has the reason.")
                if refusal is not None and refusal.stands(seen, time.monotonic()):
                    raise unusable
                try:
                    self._pinned[key] = await self._load(name, version)
                except BundleError as error:
                    self._pinned_refused[key] = Refusal.of(error, seen, refusal, time.monotonic())
                    self._note_refusal(name, version, error)
                    raise unusable from None
                self._pinned_refused.pop(key, None)
                while len(self._pinned) > self._settings.cached_versions:
                    self._metrics.forget(*self._pinned.popitem(last=False)[0])
            return self._pinned[key]

    def names(self) -> list[str]:
        """The models that are live or were refused."""
        return sorted({*self._live, *self._refused})

    def refused_names(self) -> list[str]:
        """The models whose CURRENT was refused."""
        return sorted(self._refused)

    async def published(self, name: str) -> bool:
        """Whether a model of this name is known, or has a CURRENT."""
        if name in self.names():
            return True
        try:
            return name in await asyncio.to_thread(list_models, self._folder)
        except OSError:
            return False

    async def versions(self, name: str) -> list[str]:
        """The published versions of a model."""
        return await asyncio.to_thread(list_versions, self._folder, check_name(name))

    async def report(self, live: Live) -> bytes:
        """The training report of a loaded version, as the manifest that was verified then has it; raises the 503 where it is no
        longer there so.
        """
        folder = self._folder / live.name / live.version
        try:
            return await asyncio.to_thread(read_file, folder, REPORT, live.detector.manifest)
        except BundleError as error:
            log.event(logging.ERROR, "report refused", model=live.name, version=live.version, reason=str(error))
            raise self._not_ready(f"The report of version {live.version} cannot be read.") from None

    async def refresh(self) -> None:
        """Takes up every new CURRENT; what is refused is logged and counted, and not tried again before its files change.

        What is served goes on where it is gone, or where the folder cannot be read.
        """
        try:
            published = await self._in_thread(list_models, self._folder)
        except OSError as error:
            self._note_failed_look(error)
        else:
            for name in self._refused.keys() - set(published):  # whoever took it away wants it no more
                del self._refused[name]
            for name in published:
                with contextlib.suppress(BundleError):
                    await self._take_up(name, again=False)
            await self._tell_what_is_gone(self._live.keys() - set(published))
            self._blind = None
        await self._tell_whether_ready()

    def _note_failed_look(self, error: OSError) -> None:
        """Logs it once for each reason; where nothing is served, that is told with the reason."""
        what = error.strerror or type(error).__name__
        what = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {what}"
        reason = f"The folder of the models {what}."
        if reason != self._blind and self._live:
            log.event(logging.WARNING, "looking for new versions failed", folder=str(self._folder.absolute()), reason=reason)
        self._blind = reason

    async def _tell_what_is_gone(self, gone: set[str]) -> None:
        """Logs once of each live model that it has no CURRENT any more, and why."""
        for name in sorted(gone - self._gone):
            try:
                await self._in_thread(current_version, self._folder, name)
            except BundleError as error:
                told = {"model": name, "version": self._live[name].version, "reason": str(error)}
                log.event(logging.WARNING, "a served model is not published any more", **told)
        self._gone = gone

    async def reload(self, name: str) -> Live:
        """Takes up a model's CURRENT now. Raises BundleError with the reason where it is refused."""
        live = await self._take_up(check_name(name), again=True)
        await self._tell_whether_ready()
        self._look_for_shadow()
        return live

    async def _tell_whether_ready(self) -> None:
        """Logs why there is nothing to answer /score with, once for each reason; a model that is loaded has a line of its own."""
        reason = None
        try:
            self.default()
        except Problem as problem:
            if problem.code == "not_ready":
                reason = problem.detail
        if reason is not None and (closed := await self._in_thread(closed_folders, self._folder)):
            reason += f" This user may not look into: {', '.join(closed)}."
        if reason is not None and reason != self._unready:
            told = {"model": self._settings.model or "any", "published": ", ".join(self.names()) or "none", "reason": reason}
            log.event(logging.WARNING, "nothing to score with", folder=str(self._folder.absolute()), **told)
        self._unready = reason

    async def _take_up(self, name: str, again: bool) -> Live:
        async with self._one_at_a_time:
            seen, refusal = await self._in_thread(_look_at_current, self._folder, name), self._refused.get(name)
            if not again and refusal is not None and refusal.stands(seen, time.monotonic()):
                raise BundleError(refusal.reason)
            version = "unknown"
            try:
                version = await self._in_thread(current_version, self._folder, name)
                live = self._live.get(name)
                if live is None or live.version != version:
                    live = await self._load(name, version)
                    self._swap(live)
                self._refused.pop(name, None)
            except BundleError as error:
                self._refused[name] = Refusal.of(error, seen, refusal, time.monotonic())
                self._metrics.reloads[name, "refused"] += 1
                self._note_refusal(name, version, error)
                raise
            return live

    def _swap(self, live: Live) -> None:
        """From here on, new requests get this version; those under way keep the one that they began with."""
        before = self._live.get(live.name)
        self._live[live.name] = live
        self._pinned.pop((live.name, live.version), None)
        if before is not None:
            self._metrics.forget(before.name, before.version)
        if self.shadow is not None and self.shadow.name == live.name:
            self.shadow.attach(live)
        self._metrics.reloads[live.name, "loaded"] += 1
        log.event(logging.INFO, "model loaded", model=live.name, version=live.version, provider=live.detector.provider)

    async def _load(self, name: str, version: str) -> Live:
        tried = bool(self._live)  # the first start waits for nobody: there is no score that a bad bundle could cost
        live = await self._in_thread(load, self._folder, name, version, self._settings, tried)
        live.counts = self._metrics.counts(name, version)
        return live

    def _look_for_shadow(self) -> None:
        """Begins to load the shadow where it is not loaded. Nobody waits for it, nor for a thread that it holds."""
        if self.shadow is not None and (self._shadow_loading is None or self._shadow_loading.done()):
            self._shadow_loading = asyncio.get_running_loop().create_task(self._load_shadow(self.shadow))

    async def _load_shadow(self, shadow: Shadow) -> None:
        seen = await asyncio.to_thread(look, self._folder / shadow.name / shadow.version)
        if not shadow.is_new(seen):
            return
        try:
            live = await asyncio.to_thread(load, self._folder, shadow.name, shadow.version, self._settings, True)
        except BundleError as error:
            shadow.refuse(seen, error)
        else:
            shadow.take(live.detector, self._live.get(shadow.name))

    def _note_refusal(self, name: str, version: str, error: BundleError) -> None:
        self._metrics.refusals[name, error.stage] += 1
        log.event(logging.ERROR, "bundle refused", model=name, version=version, stage=error.stage, reason=str(error))

    @staticmethod
    def _not_ready(detail: str, refused: Collection[str] = ()) -> Problem:
        why = f" Refused: {', '.join(sorted(refused))}; the log has the reason." if refused else ""
        return not_ready(detail + why)

    async def _in_thread(self, function: Callable[[*Given], T], *given: *Given) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._loader, function, *given)

    async def look(self) -> None:
        """Looks for new versions, and for the shadow's; what keeps it from that is logged."""
        try:
            await self.refresh()
            self._look_for_shadow()
        except Exception as error:  # noqa: BLE001 - it must not end the looking
            log.event(logging.ERROR, "looking for new versions failed", error=type(error).__name__)

    async def _poll_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.reload_seconds)
            await self.look()


def _look_at_current(models_dir: Path, name: str) -> Seen:
    """How CURRENT looks, and the bundle that it names."""
    with contextlib.suppress(BundleError):
        return look(models_dir / name / CURRENT, models_dir / name / current_version(models_dir, name))
    return look(models_dir / name / CURRENT)
