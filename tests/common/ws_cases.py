# Frames that are wrong, or only unusual, sent to a server of ours and to one of `websockets`: what both say to each is
# compared. Arguments: our port and path. The cases are those of Autobahn's chapters 2 to 7 that apply to binary streams.
import asyncio, base64, logging, os, struct, sys, websockets

logging.disable()

def frame(head, payload=b"", masked=True, length=None):
    n = len(payload)
    if length is not None: short, rest = length
    elif n < 126: short, rest = n, b""
    else: short, rest = 126, struct.pack(">H", n)
    mask = os.urandom(4) if masked else b""
    body = bytes(b ^ mask[i % 4] for i, b in enumerate(payload)) if masked else payload
    return bytes([head, short | (0x80 if masked else 0)]) + rest + mask + body

def closing(code, reason=b""):
    return frame(0x88, struct.pack(">H", code) + reason)

CASES = {
    "a reserved bit": frame(0xC2, b"x"),
    "a reserved opcode for data": frame(0x83, b"x"),
    "a reserved opcode for control": frame(0x8B),
    "a ping in fragments": frame(0x09, b"x"),
    "a ping of 126 bytes": frame(0x89, b"x" * 126),
    "a ping of 125 bytes": frame(0x89, b"x" * 125) + closing(1000),
    "a frame without a mask": frame(0x82, b"x", masked=False),
    "a continuation of nothing": frame(0x80, b"x"),
    "a message within a message": frame(0x02, b"x") + frame(0x82, b"y"),
    "a ping within a message": frame(0x02, b"x") + frame(0x89, b"p") + frame(0x80, b"y") + closing(1000),
    "an unasked pong": frame(0x8A, b"p") + closing(1000),
    "a close of one byte": frame(0x88, b"x"),
    "a close without a code": frame(0x88),
    "a close of 126 bytes": frame(0x88, struct.pack(">H", 1000) + b"x" * 124),
    "a length above 63 bits": frame(0x82, length=(127, b"\x80" + bytes(7))),
    **{f"a close with {code}": closing(code, b"why") for code in
       (999, 1000, 1001, 1003, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000)},
}

NORMAL = struct.pack(">H", 1000)

async def outcome(port, path, case):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write((f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head.split(b"\r\n")[0], head
    writer.write(case)
    said, data = [], b""
    while True:
        try: a, b = await asyncio.wait_for(reader.readexactly(2), 10)
        except asyncio.IncompleteReadError: break
        n = b & 127
        assert not b & 128, "a server masks nothing"
        if n == 126: n = struct.unpack(">H", await reader.readexactly(2))[0]
        elif n == 127: n = struct.unpack(">Q", await reader.readexactly(8))[0]
        payload = await reader.readexactly(n)
        if a & 15 in (0, 1, 2): data += payload
        elif a & 15 == 8: said.append(("close", payload[:2]))
        else: said.append((a & 15, payload))
    writer.close()
    return data, said

async def echo(ws):
    async for message in ws: await ws.send(message)

async def main():
    ours, path = int(sys.argv[1]), sys.argv[2]
    async with websockets.serve(echo, "127.0.0.1", 0, compression=None, close_timeout=1) as server:
        theirs = server.sockets[0].getsockname()[1]
        differ = 0
        for name, case in CASES.items():
            (_, a), (_, b) = await outcome(ours, path, case), await outcome(theirs, "/", case)
            # A Close without a code may be answered by one with 1000 (RFC 6455 §5.5.1).
            plain = lambda said: [(what, payload or NORMAL if what == "close" else payload) for what, payload in said]
            if plain(a) != plain(b):
                differ += 1
                print(f"{name}: we say {a}, websockets {b}")
        print(f"{len(CASES)} cases, {differ} differ")
asyncio.run(main())
