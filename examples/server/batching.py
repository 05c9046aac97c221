"""One batch of all that is asked for at the same time."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class QueueIsFull(Exception):
    """More is waiting than can be answered soon."""


class Batcher:
    """Collects items that are submitted at the same time, and runs them together in a thread.

    While a batch runs, the next one gathers. An item that comes alone waits for others, but not for
    long.

    run (Callable): Returns a result for each item. One that is an exception is raised for its item.
    most (int): Largest number of items in a batch.
    wait (float): How long, in seconds, an item may wait for others while nothing runs.
    queue (int): How many items may wait at all.
    """

    def __init__(
        self, run: Callable[[Sequence[Any]], Sequence[Any]], *, most: int, wait: float, queue: int
    ):
        self.run, self.most, self.wait = run, most, wait
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future[Any]] | None] = asyncio.Queue(queue)
        self._thread = ThreadPoolExecutor(1)  # one batch at a time: it has threads of its own
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """RETURNS (int): The number of items that wait."""
        return self._queue.qsize()

    @property
    def is_alive(self) -> bool:
        """RETURNS (bool): Whether items are answered."""
        return self._task is not None and not self._task.done()

    async def submit(self, item: Any) -> Any:
        """RETURNS (Any): The result for an item, once there is one.

        RAISES (QueueIsFull): If too many are waiting.
        """
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((item, result))
        except asyncio.QueueFull:
            raise QueueIsFull from None
        return await result

    def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Answer what is waiting, and end."""
        await self._queue.put(None)
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def _work(self) -> None:
        while (first := await self._queue.get()) is not None:
            batch, ends = await self._gather(first)
            asked = [(item, result) for item, result in batch if not result.done()]
            answers = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._run_safely, [item for item, _ in asked]
            )
            for (_, result), answer in zip(asked, answers, strict=True):
                if result.done():  # nobody waits for it any more
                    continue
                if isinstance(answer, Exception):
                    result.set_exception(answer)
                else:
                    result.set_result(answer)
            if ends:
                return

    async def _gather(self, first: Any) -> tuple[list[Any], bool]:
        """RETURNS (tuple[list[Any], bool]): A batch, and whether it is the last one."""
        batch = [first]
        if self._queue.empty():
            await asyncio.sleep(self.wait)
        while len(batch) < self.most and not self._queue.empty():
            more = self._queue.get_nowait()
            if more is None:
                return batch, True
            batch.append(more)
        return batch, False

    def _run_safely(self, items: Sequence[Any]) -> Sequence[Any]:
        try:
            return self.run(items)
        except Exception as error:
            return [error] * len(items)
