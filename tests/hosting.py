"""Async context managers as fixtures. pytest-asyncio sets up and tears down in different tasks, and cancel scopes
must be left in the task that entered them: so each lives in a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def hosted(context: AbstractAsyncContextManager[T]) -> AsyncGenerator[T]:
    """Enter `context` in a task of its own, and leave it there."""
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def live() -> None:
        try:
            async with context as value:
                entered.set_result(value)
                await leave.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    task = asyncio.create_task(live())
    value = await entered
    try:
        yield value
    finally:
        leave.set()
        await task
