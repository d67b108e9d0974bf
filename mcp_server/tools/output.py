"""Reading a task's output from an offset, while it grows or afterwards."""

from __future__ import annotations

import codecs
from typing import Any

from mcp_server.attempts import Attempts
from mcp_server.tasks import Task, Tasks

PART_LIMIT_BYTES = 64 * 1024


async def read_part(
    attempts: Attempts, tasks: Tasks, task: Task, stream: str, offset: int, wait: float
) -> dict[str, Any]:
    """At most 64 KiB of a stream from `offset`; with `wait`, as soon as there is some, or the task ends.

    Bad bytes are replaced; a character that is not complete yet is left for the next part. `expired`: there was some,
    and it was deleted for its age.
    """
    await attempts.wait_for_output(task, stream, offset, wait)
    task = await tasks.get(task.id)
    data = await attempts.read_output(task, stream, offset, PART_LIMIT_BYTES)
    size = await attempts.output_end(task, stream)
    complete = task.final and offset + len(data) >= size
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=complete)
    pending = 0 if complete else len(decoder.getstate()[0])
    return {
        "stream": stream,
        "offset": offset,
        "next_offset": offset + len(data) - pending,
        "size": size,
        "text": text,
        "complete": complete,
        **({"expired": True} if task.lost_its_output(stream, size) else {}),
    }
