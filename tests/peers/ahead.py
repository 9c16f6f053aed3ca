"""Sends an ACK right ahead of the SYN, again and again: connection tracking takes the ACK for the middle of a
connection that it missed, and does not look at the SYN as a beginning any more. Prints how many were answered.

    ahead.py FROM TO PORT TRIES
"""

import socket
import struct
import sys

SYN, ACK = 2, 16
SOURCE_PORT = 40000
# TCP-MD5 (RFC 2385): who does not expect it drops the segment without the RST that would end the tracking.
SIGNATURE = bytes([1, 1, 19, 18]) + bytes(16)


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def segment(source, destination, source_port, port, flags, sequence, acknowledged, options=b""):
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    length = 20 + len(options)

    def header(check):
        fixed = struct.pack(
            "!HHIIBBHHH", source_port, port, sequence, acknowledged, length // 4 << 4, flags, 65535, check, 0
        )
        return fixed + options

    pseudo = addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, length)
    return header(checksum(pseudo + header(0)))


def answered(received, address, port):
    """Whether this is a SYN-ACK from there."""
    packet, (sender, _) = received
    tcp = packet[(packet[0] & 15) * 4 :]
    return sender == address and tcp[13] & (SYN | ACK) == SYN | ACK and tcp[:2] == struct.pack("!H", port)


def main(source, destination, port, tries):
    port, tries, answers = int(port), int(tries), 0
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    raw.bind((source, 0))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    raw.setblocking(False)
    packets = []
    # A handful of tuples: each is used again while connection tracking still knows how it ended.
    for source_port in range(SOURCE_PORT, SOURCE_PORT + 16):
        ends = (source, destination, source_port, port)
        packets.append((segment(*ends, ACK, 1000, 1, SIGNATURE), segment(*ends, SYN, 5000, 0)))
    for number in range(tries):
        for packet in packets[number % len(packets)]:
            raw.sendto(packet, (destination, 0))
        answers += drained(raw, destination, port)
    raw.settimeout(0.5)
    answers += drained(raw, destination, port)
    print(answers)


def drained(raw, destination, port):
    answers = 0
    while True:
        try:
            answers += answered(raw.recvfrom(256), destination, port)
        except (BlockingIOError, TimeoutError):
            return answers


main(*sys.argv[1:])
