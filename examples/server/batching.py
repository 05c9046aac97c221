"""One batch of all that is asked for at the same time."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class QueueIsFull(Exception):
    """More is waiting than can be answered soon."""


class Batcher:
    """Collects items that are submitted at the same time, and runs them together in a thread.

    While a batch runs, the next one gathers. Before it runs, it waits for others as long as new
    ones come, but not for long: clients that the last batch has answered ask again one by one.

    run (Callable): Returns a result for each item. One that is an exception is raised for its item.
    most (int): Largest number of items in a batch.
    wait (float): How long, in seconds, an item may wait for others while nothing runs. It is over
        when nobody new came for a half of it.
    queue (int): How many items may wait at all.
    weigh (Callable): Returns how large an item is.
    weight (int): How large those that wait may be together, when one more is taken.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        most: int,
        wait: float,
        queue: int,
        weigh: Callable[[Any], int] = lambda item: 0,
        weight: int = 1,
    ):
        self.run, self.most, self.wait = run, most, wait
        self.weigh, self.weight = weigh, weight
        self._waiting = 0  # how large they are
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future[Any]] | None] = asyncio.Queue(queue)
        self._thread = ThreadPoolExecutor(1)  # one batch at a time: it has threads of its own
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """RETURNS (int): The number of items that wait."""
        return self._queue.qsize()

    @property
    def is_full(self) -> bool:
        """RETURNS (bool): Whether no more items are taken."""
        return self._queue.full() or self._waiting >= self.weight

    @property
    def is_alive(self) -> bool:
        """RETURNS (bool): Whether items are answered."""
        return self._task is not None and not self._task.done()

    async def submit(self, item: Any) -> Any:
        """RETURNS (Any): The result for an item, once there is one.

        RAISES (QueueIsFull): If too many are waiting.
        """
        if self.is_full:
            raise QueueIsFull
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((item, result))
        self._waiting += self.weigh(item)
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
            self._waiting -= sum(self.weigh(item) for item, _ in batch)
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
        batch, clock = [first], asyncio.get_running_loop().time
        until, before = clock() + self.wait, 0
        while True:
            while len(batch) < self.most and not self._queue.empty():
                more = self._queue.get_nowait()
                if more is None:
                    return batch, True
                batch.append(more)
            if len(batch) in (before, self.most) or clock() >= until:
                return batch, False
            before = len(batch)
            await asyncio.sleep(self.wait / 2)

    def _run_safely(self, items: Sequence[Any]) -> Sequence[Any]:
        try:
            return self.run(items)
        except Exception as error:
            return [error] * len(items)
