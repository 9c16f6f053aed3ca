"""Publishes to itself through NATS with the C client (libnats) and says how many messages came back whole."""

import ctypes
import sys

library = ctypes.CDLL("libnats.so")
library.nats_GetText = library.natsStatus_GetText
library.nats_GetText.restype = ctypes.c_char_p
library.natsMsg_GetData.restype = ctypes.c_void_p
library.natsMsg_GetData.argtypes = [ctypes.c_void_p]
library.natsMsg_GetDataLength.argtypes = [ctypes.c_void_p]
library.natsMsg_Destroy.argtypes = [ctypes.c_void_p]
library.natsSubscription_NextMsg.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]


def done(status):
    if status:
        sys.exit(library.nats_GetText(status).decode())


def body(number):
    return f"{number} ".encode() * (1 + number % 500)


address, count = sys.argv[1], int(sys.argv[2])
connection, subscription = ctypes.c_void_p(), ctypes.c_void_p()
done(library.natsConnection_ConnectTo(ctypes.byref(connection), f"nats://{address}".encode()))
done(library.natsConnection_SubscribeSync(ctypes.byref(subscription), connection, b"signet.test"))
for number in range(count):
    data = body(number)
    done(library.natsConnection_Publish(connection, b"signet.test", data, len(data)))
done(library.natsConnection_FlushTimeout(connection, ctypes.c_int64(20000)))
for number in range(count):
    message = ctypes.c_void_p()
    done(library.natsSubscription_NextMsg(ctypes.byref(message), subscription, 20000))
    received = ctypes.string_at(library.natsMsg_GetData(message), library.natsMsg_GetDataLength(message))
    assert received == body(number), f"message {number} is another: {received[:40]}"
    library.natsMsg_Destroy(message)
print(count)
