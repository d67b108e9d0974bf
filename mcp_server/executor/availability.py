"""Whether the agents are there: looked at now and then, and told when one appears or disappears."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

from mcp_server.agent import Agent
from mcp_server.attempts import Attempts

AGENT_LOOK_SECONDS = 60.0

logger = logging.getLogger(__name__)


async def watch(agent: Agent, attempts: Attempts, changed: Callable[[], None]) -> None:
    """Find out now and then whether an agent is there: what is queued for it begins, or says that it waits.

    `changed` is called at the first look, and whenever it is there or not other than before. Until cancelled.
    """
    ready: bool | None = None
    while True:
        try:
            await _looked(agent)
            if agent.availability().ready != ready:
                before, ready = ready, agent.availability().ready
                changed()
                if before is not None:
                    await _tell(agent, ready, attempts)
                await attempts.set_installed(agent.name, ready)
        except Exception:  # a fault in one agent is not another's; the next look tries again
            logger.exception("whether %s is there could not be found out", agent.name)
        await asyncio.sleep(AGENT_LOOK_SECONDS)


async def _tell(agent: Agent, ready: bool, attempts: Attempts) -> None:
    kind = "agent.appeared" if ready else "agent.disappeared"
    logger.info("%s: %s", kind, agent.title)
    await attempts.tell(kind, f"agent://{agent.name}", None, agent=agent.name)


async def _looked(agent: Agent) -> None:
    """Let the agent look, in a thread that nobody waits for when the server ends."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def look() -> None:
        error = None
        try:
            agent.look()
        except Exception as found:  # noqa: BLE001  # told to whoever waits
            error = found
        with contextlib.suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=look, name=f"look-{agent.name}", daemon=True).start()
    await done
