"""A cable that can be cut: `python -m tests.live.cable PORT TO_PORT` carries from PORT to TO_PORT, and back.

A process, so that SIGSTOP makes a link that is dead without a word, and SIGKILL one that both ends see break.
"""

from __future__ import annotations

import asyncio
import sys

HOST = "127.0.0.1"
CHUNK = 65_536


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, to its end."""
    try:
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(port: int, to_port: int) -> None:
    """For ever."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(HOST, to_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(carry(reader, there_writer), carry(there_reader, writer))

    async with await asyncio.start_server(connected, HOST, port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
