"""A tunnel as a program makes one: a tun device in this namespace, one in another, and packets carried between them.

Arguments: the other namespace, the name of both devices, and `whole` if packets go with their virtio header, so that segments
stay together and checksums may be unfinished.
"""
import ctypes, fcntl, os, select, struct, sys

there, name, whole = sys.argv[1], sys.argv[2], sys.argv[3] == "whole"
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x1, 0x1000, 0x4000
TUNSETIFF, TUNSETOFFLOAD, CLONE_NEWNET = 0x400454CA, 0x400454D0, 0x40000000
CHECKSUM, TSO4, TSO6 = 1, 2, 4


def tun():
    device = os.open("/dev/net/tun", os.O_RDWR)
    flags = IFF_TUN | IFF_NO_PI | (IFF_VNET_HDR if whole else 0)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    if whole:
        fcntl.ioctl(device, TUNSETOFFLOAD, CHECKSUM | TSO4 | TSO6)
    return device


here = tun()
if ctypes.CDLL(None, use_errno=True).setns(os.open(there, os.O_RDONLY), CLONE_NEWNET) != 0:
    raise OSError(ctypes.get_errno(), "setns")
far = tun()
other = {here: far, far: here}
while True:
    for device in select.select([here, far], [], [])[0]:
        try:
            os.write(other[device], os.read(device, 1 << 17))
        except OSError:
            pass  # Its device is down.
