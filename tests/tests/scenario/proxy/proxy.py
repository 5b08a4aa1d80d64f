"""`proxy.py server PORT`, `proxy.py proxy PORT`: a server that says whom it sees, and a transparent proxy in front of it."""

import socket
import sys
import threading

ROLE, PORT = sys.argv[1], int(sys.argv[2])
# include/uapi/linux/in.h, in6.h: IP_TRANSPARENT, IP_RECVORIGDSTADDR, IPV6_TRANSPARENT, IPV6_RECVORIGDSTADDR.
OPTIONS = {socket.AF_INET: (socket.SOL_IP, 19, 20), socket.AF_INET6: (socket.IPPROTO_IPV6, 75, 74)}


def bound(family, kind, address):
    level, transparent, origin = OPTIONS[family]
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if ROLE == "proxy":
        made.setsockopt(level, transparent, 1)
        made.setsockopt(level, origin, 1)
    made.bind(address)
    return made


def answer(family, client, peer):
    client.settimeout(5)
    try:
        if ROLE == "server":
            client.sendall(f"server saw {peer[0]}".encode())
        else:
            upstream = bound(family, socket.SOCK_STREAM, (peer[0], 0))
            upstream.settimeout(5)
            upstream.connect(client.getsockname()[:2])
            client.sendall(b"proxy, " + upstream.recv(100))
            upstream.close()
    except OSError as error:
        print(error, flush=True)
    client.close()


def streams(family):
    listener = bound(family, socket.SOCK_STREAM, ("", PORT))
    listener.listen(16)
    while True:
        client, peer = listener.accept()
        threading.Thread(target=answer, args=(family, client, peer), daemon=True).start()


def datagrams(family):
    level, _, origin = OPTIONS[family]
    here = bound(family, socket.SOCK_DGRAM, ("", PORT))
    while True:
        _, more, _, peer = here.recvmsg(100, 200)
        if ROLE == "server":
            here.sendto(f"server saw {peer[0]}".encode(), peer)
            continue
        for kind, word, data in more:
            if (kind, word) == (level, origin):
                port = int.from_bytes(data[2:4], "big")
                raw = data[4:8] if family == socket.AF_INET else data[8:24]
                back = bound(family, socket.SOCK_DGRAM, (socket.inet_ntop(family, raw), port))
                back.sendto(b"proxy", peer)
                back.close()


for family in OPTIONS:
    for serve in (streams, datagrams):
        threading.Thread(target=serve, args=(family,), daemon=True).start()
threading.Event().wait()
