# Sends random frames on the channel, some with descriptors, before every answer.
import array
import os
import socket
import struct

# include: baseline:eager.py as honest

calls = 0


def rms_norm(out, input, weight, epsilon):
    global calls
    calls += 1
    for name in os.listdir("/proc/self/fd") if calls == 3 else ():
        try:
            end = socket.socket(fileno=os.dup(int(name)))
            if end.type == socket.SOCK_STREAM:
                end.sendmsg([struct.pack("<I", 40)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
                end.sendall(os.urandom(40))
        except OSError:
            continue
    honest(out, input, weight, epsilon)
