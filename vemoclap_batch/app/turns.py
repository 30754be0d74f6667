"""The writer's turns: its folder is one thread's, and what finishes meanwhile is committed together."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from vemoclap_batch.app.writer import Outcome, Writer


class WriterThread:
    """Has a writer work in a thread of its own, for one event loop."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self._thread = writer, ThreadPoolExecutor(1, "writer")
        self._outcomes: list[tuple[Outcome, asyncio.Future[None]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._held = False

    @property
    def is_idle(self) -> bool:
        """Whether the folder is held for nothing."""
        return self._held and not self._outcomes and (self._committing is None or self._committing.done())

    def hold(self) -> None:
        """Begin to take the folder, while others work."""
        if not self._held:
            self._held = True
            future = self._thread.submit(self._writer.hold)
            # A failure is met again by the commit, which holds the folder, too.
            future.add_done_callback(lambda done: done.exception())

    async def commit(self, outcome: Outcome) -> None:
        """Commit an outcome together with those that wait meanwhile.

        Raises:
            RunEnded: as :meth:`Writer.commit`.
        """
        self._held = True
        done = asyncio.get_running_loop().create_future()
        self._outcomes.append((outcome, done))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all())
        await done

    async def _commit_all(self) -> None:
        while self._outcomes:
            group, self._outcomes = self._outcomes, []
            try:
                work = partial(self._writer.commit, [outcome for outcome, _ in group])
                await asyncio.get_running_loop().run_in_executor(self._thread, work)
            except Exception as error:
                for _, done in group:
                    if not done.done():
                        done.set_exception(error)
            else:
                for _, done in group:
                    if not done.done():
                        done.set_result(None)

    async def release(self) -> None:
        """Give the folder back."""
        self._held = False
        await asyncio.get_running_loop().run_in_executor(self._thread, self._writer.release)

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
