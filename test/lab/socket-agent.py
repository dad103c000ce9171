# socket-agent.py [<port>]: does with its sockets what it is told, in lines of JSON: ["<function>", arguments...]; the answer is a
# line of JSON. It is told so on its standard input, or on connections to the port, one after the other.
import ctypes
import errno
import hashlib
import json
import select
import socket
import sys
import threading

BLOCK = b''.join(hashlib.sha256(str(i).encode()).digest() for i in range(2049))  # no power of two: a shift shows
sockets = {}
results = {}


def stream(position, count):
    """`count` bytes of the stream that everybody sends, from a position."""
    start = position % len(BLOCK)
    whole = BLOCK[start:] + BLOCK * (count // len(BLOCK) + 1)
    return whole[:count]


def listen(name, address, port, options=()):
    held = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
    if ':' in address:
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sockets[name] = held
    set_options(name, options)
    held.bind((address, port))
    held.listen(512)


def udp(name, address, port):
    held = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
    held.bind((address, port))
    sockets[name] = held


def accept(listener, name):
    sockets[name] = sockets[listener].accept()[0]
    return sockets[name].getpeername()[1]


def connect(name, address, port, source=''):
    sockets[name] = socket.create_connection((address, port), timeout=10, source_address=(source, 0) if source else None)
    sockets[name].settimeout(None)
    return sockets[name].getsockname()[1]


def set_options(name, options):
    """[[level, option, number or text]...]"""
    for level, option, value in options:
        sockets[name].setsockopt(level, option, value if isinstance(value, int) else value.encode())


def options(asked):
    """What each socket answers to [[level, option]...]: in hexadecimal, or the error's number."""
    def answer(held, level, option):
        try:
            return held.getsockopt(level, option, 16).hex()
        except OSError as error:
            return error.errno
    return {name: [answer(held, *one) for one in asked] for name, held in sockets.items()}


def send_window(name):
    """How much the other end takes at once (tcpi_snd_wnd; 0 from kernels before 5.4)."""
    info = sockets[name].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    return int.from_bytes(info[228:232], sys.byteorder)


def state(name):
    return sockets[name].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def fill(name):
    """Sends until nothing more fits. How many bytes."""
    sockets[name].setblocking(False)
    sent = 0
    try:
        while True:
            sent += sockets[name].send(stream(sent, 1 << 16))
    except BlockingIOError:
        sockets[name].setblocking(True)
        return sent


def send(name, text, flags=0):
    return sockets[name].send(text.encode(), flags)


def send_stream(name, count):
    """Sends so much of the stream, and its end."""
    sockets[name].sendall(stream(0, count))
    sockets[name].shutdown(socket.SHUT_WR)
    return count


def receive(name, count, flags=0):
    data = b''
    while len(data) < count:
        more = sockets[name].recv(count - len(data), flags)
        if more == b'':
            break
        data += more
    return data.decode()


def ask(name, line):
    """Says a line. The line that comes back."""
    sockets[name].sendall(line.encode() + b'\n')
    answer = b''
    while not answer.endswith(b'\n'):
        more = sockets[name].recv(4096)
        if more == b'':
            raise OSError('the connection has ended')
        answer += more
    return answer.decode().rstrip()


def to_end(name):
    """Reads the stream to its end. How many bytes came, and whether they were the right ones."""
    count, right = 0, True
    while True:
        data = sockets[name].recv(1 << 16)
        if data == b'':
            return [count, right]
        right = right and data == stream(count, len(data))
        count += len(data)


def shutdown(name):
    sockets[name].shutdown(socket.SHUT_WR)


def close(name):
    sockets.pop(name).close()


def begin_source(name, milliseconds=0):
    """Sends the stream until it is told to stop, and then its end."""
    stop = threading.Event()

    def work():
        sent = 0
        while not stop.wait(milliseconds / 1000):
            part = stream(sent, 1 << 16)
            sockets[name].sendall(part)
            sent += len(part)
        sockets[name].shutdown(socket.SHUT_WR)
        return sent
    begin('source ' + name, work, stop)


def begin_sink(name):
    begin('sink ' + name, lambda: to_end(name))


def begin_pong(listener):
    """Accepts connections for ever and answers PING, as a Redis does."""
    results['pongs ' + listener] = 0

    def work():
        while True:
            with sockets[listener].accept()[0] as held:
                held.recv(64)
                held.sendall(b'+PONG\r\n')
                results['pongs ' + listener] += 1
    begin('pong ' + listener, work)


def begin_echo(name):
    """Sends every datagram back to whom it came from, for ever."""
    def work():
        while True:
            data, source = sockets[name].recvfrom(1 << 16)
            sockets[name].sendto(data, source)
    begin('echo ' + name, work)


def exchange(address, port, size, count):
    """Datagrams of a size, one after the other. How many came back as they were, within five seconds each."""
    right = 0
    with socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.connect((address, port))
        held.settimeout(5)
        for number in range(count):
            data = stream(number * 7919, size)
            held.send(data)
            try:
                right += held.recv(1 << 16) == data
            except TimeoutError:
                pass
    return right


def path_mtu(address, port, size):
    """Sends datagrams that may not be split and are too long. The MTU of the path, as the answer to them says, in bytes."""
    six = ':' in address
    level, discover, known = (socket.IPPROTO_IPV6, 23, 24) if six else (socket.IPPROTO_IP, 10, 14)
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.connect((address, port))
        held.setsockopt(level, discover, 2)  # IP_PMTUDISC_DO
        held.settimeout(0.1)
        for _ in range(100):  # the first may be lost on a link that nobody knew of: only a later one is answered (RFC 2003, 5.1)
            try:
                held.send(bytes(size))
                held.recv(1)
            except TimeoutError:
                continue
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                return held.getsockopt(level, known)


def begin_stops():
    """Counts how often it is stopped, by whomever and however shortly: epoll_wait() fails with EINTR then (signal(7))."""
    stop = threading.Event()

    def work():
        libc, count = ctypes.CDLL(None, use_errno=True), 0
        with select.epoll() as nothing:
            while not stop.is_set():
                if libc.epoll_wait(nothing.fileno(), ctypes.create_string_buffer(16), 1, 50) < 0:
                    count += ctypes.get_errno() == errno.EINTR
        return count
    begin('stops', work, stop)


def pongs(listener):
    return results['pongs ' + listener]


def begin(name, work, stop=None):
    results[name] = [None, stop]

    def run():
        results[name][0] = work()
    thread = threading.Thread(target=run, daemon=True)
    results[name].append(thread)
    thread.start()


def end(name):
    """The result of what was begun."""
    if results[name][1] is not None:
        results[name][1].set()
    results[name][2].join()
    return results[name][0]


def serve(lines, answers):
    for line in lines:
        function, *arguments = json.loads(line)
        try:
            answer = {'answer': globals()[function](*arguments)}
        except OSError as error:
            answer = {'error': str(error)}
        answers.write(json.dumps(answer) + '\n')
        answers.flush()


if len(sys.argv) < 2:
    serve(sys.stdin, sys.stdout)
else:
    listen('control', '::', int(sys.argv[1]))
    while True:
        with sockets['control'].accept()[0] as control:
            with control.makefile('rw') as both:
                serve(both, both)
