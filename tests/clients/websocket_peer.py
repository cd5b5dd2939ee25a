"""A WebSocket server and client of the `websockets` package, with the sidecar and mTLS between them."""
import asyncio
import os
import ssl

import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

context = ssl.create_default_context(cafile=os.environ["CA"])
context.load_cert_chain(os.environ["CERT"], os.environ["KEY"])
URL = f"wss://{os.environ['ADDRESS']}/chat"


async def echo(socket):
    async for message in socket:
        if message == "bye":
            await socket.close(4001, "as you wish")
            return
        await socket.send(message)


async def main():
    host, port = os.environ["UPSTREAM"].rsplit(":", 1)
    async with serve(echo, host, int(port), max_size=None):
        async with connect(URL, ssl=context, server_hostname="localhost", max_size=None) as socket:
            for message in ["hello", b"\0\1\2", "x" * 2_000_000, ""]:
                await socket.send(message)
                assert await asyncio.wait_for(socket.recv(), 30) == message
            # The server may speak whenever it wants, and so may both at once.
            for number in range(100):
                await socket.send(str(number))
            assert [await socket.recv() for _ in range(100)] == [str(number) for number in range(100)]
            await (await socket.ping())
            await socket.send("bye")
            try:
                await asyncio.wait_for(socket.recv(), 30)
            except websockets.ConnectionClosed as closed:
                assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as you wish"), closed
            else:
                raise AssertionError("the close did not arrive")
    print("websockets: ok")


asyncio.run(main())
