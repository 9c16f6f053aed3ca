"""A WebSocket server that echoes, or a client that talks to one until it is cut."""

import asyncio
import sys

import websockets


async def serve(address):
    host, port = address.rsplit(":", 1)

    async def echo(connection, *_):
        async for message in connection:
            await connection.send(message)

    async with websockets.serve(echo, host, int(port)):
        await asyncio.Future()


async def talk(address, rounds):
    async with websockets.connect(f"ws://{address}/socket") as connection:
        for number in range(rounds):
            await connection.send(f"message {number}")
            assert await connection.recv() == f"message {number}"
        print("talked", file=sys.stderr, flush=True)
        try:
            while True:
                await connection.send("more")
                await connection.recv()
        except websockets.ConnectionClosed:
            print("cut", file=sys.stderr, flush=True)


role, address = sys.argv[1:3]
asyncio.run(serve(address) if role == "serve" else talk(address, 100))
