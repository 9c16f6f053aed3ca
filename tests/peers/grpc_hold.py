"""Holds a bidirectional gRPC stream open, one message after the other, until it ends; says how."""

import queue
import sys

import grpc

answers = queue.Queue()
answers.put(b"first")


def requests():
    while True:
        yield answers.get()


call = grpc.insecure_channel(sys.argv[1]).stream_stream("/signet.test.Echo/Both")(requests())
try:
    for number, message in enumerate(call):
        if number == 100:
            print("talked", file=sys.stderr, flush=True)
        answers.put(message)
except grpc.RpcError as error:
    print(f"ended: {error.code().name}", file=sys.stderr, flush=True)
