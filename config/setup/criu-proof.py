"""Dumps and restores a process that holds a live TCP connection: criu-proof.py <criu> <directory>

Run as pid 1 of fresh network, mount and pid namespaces by criu-proof.sh. The target counts the bytes it echoes,
so that a right answer after the restore shows that both its memory and its connection came back.
Exits 0 when they did; else says on stderr what failed. CRIU's logs stay in the directory.
"""

import os
import socket
import subprocess
import sys

TARGET = """
import socket
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('127.0.0.1', 7))
listener.listen(1)
connection, _ = listener.accept()
count = 0
while byte := connection.recv(1):
    count += 1
    connection.sendall(byte + bytes([count]))
"""
DEADLINE_S = 10


class ProofError(Exception):
    pass


def connect(target: subprocess.Popen) -> socket.socket:
    """Connects to the target as soon as it listens."""
    while True:
        try:
            return socket.create_connection(('127.0.0.1', 7), timeout=DEADLINE_S)
        except ConnectionRefusedError:
            try:
                raise ProofError(f'the target ended early with status {target.wait(0.01)}')
            except subprocess.TimeoutExpired:
                continue


def exchange(connection: socket.socket, byte: bytes, count: int, when: str) -> None:
    connection.sendall(byte)
    answer = b''
    while len(answer) < 2:
        try:
            piece = connection.recv(2)
        except OSError as error:
            raise ProofError(f'{when} the connection failed: {error}')
        if not piece:
            raise ProofError(f'{when} the connection was closed')
        answer += piece
    if answer != byte + bytes([count]):
        raise ProofError(f'{when} the answer was {answer!r}, not {byte + bytes([count])!r}')


def criu(program: str, action: str, directory: str, *options: str) -> None:
    command = [program, action, '-D', directory, '-o', f'{action}.log', '-v4']
    command += ['--tcp-established', '--network-lock', 'skip', '--manage-cgroups=ignore', *options]
    with open(f'{directory}/{action}.out', 'wb') as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=DEADLINE_S)
    if done.returncode != 0:
        raise ProofError(f'criu {action} ended with status {done.returncode}')


def prove(program: str, directory: str) -> None:
    target = subprocess.Popen(
        [sys.executable, '-I', '-S', '-c', TARGET],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd='/',
    )
    connection = connect(target)
    exchange(connection, b'a', 1, 'before the dump')
    criu(program, 'dump', directory, '-t', str(target.pid))
    target.wait()  # its pid must be free again for the restore
    criu(program, 'restore', directory, '-d')
    exchange(connection, b'b', 2, 'after the restore')
    os.kill(target.pid, 0)


if __name__ == '__main__':
    try:
        prove(sys.argv[1], sys.argv[2])
    except (ProofError, OSError, subprocess.SubprocessError) as error:
        sys.exit(str(error))
