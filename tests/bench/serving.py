"""The server under load: answers per second beside the bare rate, the slowest answers, and memory.

    python tests/bench/serving.py [--quick] [--seconds 60] [--model FILE] [--data FOLDER]

For each engine: pictures per second of decoding and predicting in batches, without a server (*bare*); answers per second that 16 clients get (*served*); what a picture
costs in milliseconds of a processor without a server, and with it in the server and in the clients; then
four times as many requests a second as were served, with the 99th percentile of the answers that were not refused; and the memory of the process when it is
ready and how much it has grown at the end. Everything stays on this machine: clients and server share its processors. `--seconds 600` is a soak.
"""

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from statistics import median

from bench import report
from deploy import trained
from sides import need_data, options, photos

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 16
COMMAND = 'import sys; from vislearn.app.cli import main; sys.exit(main())'


def memory(pid: int) -> float:
    "MB that a process holds."
    status = Path(f'/proc/{pid}/status').read_text()
    return int(status.split('VmRSS:')[1].split()[0]) / 1024


def processor_seconds(pid: int) -> float:
    "What a process has used of all processors."
    after_name = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf('SC_CLK_TCK')


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def start(model: Path, port: int) -> subprocess.Popen:
    "A server that is ready."
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    process = subprocess.Popen([sys.executable, '-c', COMMAND, 'serve', str(model), '--port', str(port)], env=env)
    while process.poll() is None:
        try:
            connection = http.client.HTTPConnection('127.0.0.1', port, timeout=10)
            connection.request('GET', '/ready')
            if connection.getresponse().status == 200:
                return process
        except OSError:
            time.sleep(0.2)
    raise SystemExit('the server did not start')


class Clients:
    "Threads that send pictures, and what came back: statuses, and seconds of each answer that was not refused."

    def __init__(self, port: int, pictures: list[bytes]):
        self.port = port
        self.pictures = pictures
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []
        self.without_wait = 0  # refusals without Retry-After

    def ask(self, connection: http.client.HTTPConnection, i: int) -> None:
        picture = self.pictures[i % len(self.pictures)]
        begun = time.perf_counter()
        try:
            answer = exchange(connection, picture)
        except ConnectionError:  # a connection that idled for five seconds is closed
            connection.close()
            answer = exchange(connection, picture)
        self.statuses[answer.status] += 1
        if answer.status == 503:
            self.without_wait += not answer.headers.get('Retry-After')
        else:
            self.seconds.append(time.perf_counter() - begun)

    def one_after_another(self, seconds: float, n: int = CLIENTS) -> float:
        "Each client asks again when it has its answer; good answers a second."
        until = time.perf_counter() + seconds

        def work(i: int) -> None:
            connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
            while time.perf_counter() < until:
                self.ask(connection, i)
                i += n

        before = self.statuses[200]
        run_all([lambda i=i: work(i) for i in range(n)])
        return (self.statuses[200] - before) / seconds

    def at_rate(self, rate: float, seconds: float, n: int = 96) -> float:
        "Requests at even distances, whatever becomes of those before; how many a second were sent."
        line: SimpleQueue[int | None] = SimpleQueue()

        def work() -> None:
            connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
            while (i := line.get()) is not None:
                self.ask(connection, i)

        def send() -> None:
            begun = time.perf_counter()
            for i in range(int(rate * seconds)):
                time.sleep(max(0.0, begun + i / rate - time.perf_counter()))
                line.put(i)
            for _ in range(n):
                line.put(None)

        before, begun = sum(self.statuses.values()), time.perf_counter()
        run_all([send, *[work] * n])
        return (sum(self.statuses.values()) - before) / (time.perf_counter() - begun)


def exchange(connection: http.client.HTTPConnection, picture: bytes) -> http.client.HTTPResponse:
    "Send a picture; the answer, read to its end."
    connection.request('POST', '/predict', picture)
    answer = connection.getresponse()
    answer.read()
    return answer


def run_all(jobs: list) -> None:
    threads = [threading.Thread(target=o) for o in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def bare(engine, pictures: list[bytes], seconds: float) -> tuple[float, float]:
    "Pictures per second without a server, and milliseconds of a processor for each."
    from vislearn.deploy.records import records

    stream = records(engine, cycle(pictures), bs=16)
    for _ in range(32):  # from here on a batch is opened while another is computed
        next(stream)
    begun, used = time.perf_counter(), processor_seconds(os.getpid())
    for n, _ in enumerate(stream, 1):
        if n % 16 == 0 and time.perf_counter() - begun >= seconds:
            break
    rate = n / (time.perf_counter() - begun)
    used = processor_seconds(os.getpid()) - used
    stream.close()
    return rate, 1000 * used / n


def loaded(model: Path, pictures: list[bytes], seconds: float, port: int, turns: int = 5) -> dict:
    "What the server does with one load after the other; bare and served in turns, since the machine may be shared."
    from vislearn.app.predict import open_engine

    engine = open_engine(model)
    process = start(model, port)
    try:
        ready = memory(process.pid)
        calm, crowd = Clients(port, pictures), Clients(port, pictures)
        rates = [turn(engine, pictures, calm, process.pid, seconds / 4 / turns) for _ in range(turns)]
        served = median(o['served'] for o in rates)
        sent = crowd.at_rate(4 * served, seconds / 2)
        times = sorted(crowd.seconds)
        return {
            'rates': rates,
            **{k: median(o[k] for o in rates) for k in rates[0]},
            'sent': sent,
            'p99': times[int(0.99 * len(times))],
            'accepted': crowd.statuses[200],
            'refused': crowd.statuses[503],
            'others': sum(v for k, v in (calm.statuses + crowd.statuses).items() if k not in (200, 503)),
            'without_wait': crowd.without_wait + calm.without_wait,
            'ready_mb': ready,
            'end_mb': memory(process.pid),
        }
    finally:
        process.terminate()
        process.wait(60)


def turn(engine, pictures: list[bytes], clients: Clients, pid: int, seconds: float) -> dict:
    "Rates without and with the server, and what a picture costs each side, in milliseconds of a processor."
    ours, theirs = os.getpid(), pid
    rate, bare_ms = bare(engine, pictures, seconds)
    begun, begun_theirs = processor_seconds(ours), processor_seconds(theirs)
    served = clients.one_after_another(seconds)
    n = served * seconds
    return {
        'bare': rate,
        'served': served,
        'bare_ms': bare_ms,
        'clients_ms': 1000 * (processor_seconds(ours) - begun) / n,
        'server_ms': 1000 * (processor_seconds(theirs) - begun_theirs) / n,
    }


def main() -> None:
    p = options(__doc__)
    p.add_argument('--model', type=Path, help='an export to serve instead of training one')
    p.add_argument('--seconds', type=float, default=60, help='of load for each engine')
    args = p.parse_args()
    need_data(args)
    pictures = [o.read_bytes() for o in photos(args.data)]
    seconds = 6 if args.quick else args.seconds
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or trained(args, Path(folder))
        files = {'PyTorch': model, 'ONNX Runtime': Path(folder) / 'model.onnx'}
        write(model, files['ONNX Runtime'], args.data)
        for name, file in files.items():
            found = loaded(file, pictures, seconds, free_port())
            raw[name] = [found]
            rows.append(row(name, found))
    report('serving', rows, raw, args)


def write(model: Path, file: Path, data: Path) -> None:
    "The export as ONNX."
    from vislearn.deploy.onnx import write_onnx
    from vislearn.deploy.predictor import load_predictor

    write_onnx(load_predictor(model), file, photos(data)[:8], force=True)


def row(name: str, found: dict) -> dict:
    return {
        'engine': name,
        'bare, pictures/s': found['bare'],
        'served, answers/s': found['served'],
        'of bare': found['served'] / found['bare'],
        'bare, processor ms': found['bare_ms'],
        'server': found['server_ms'],
        'clients': found['clients_ms'],
        '4 x load: sent/s': found['sent'],
        'refused': found['refused'] / max(1, found['refused'] + found['accepted']),
        'p99 of the others, s': found['p99'],
        'neither 2xx nor 503': found['others'],
        'MB when ready': found['ready_mb'],
        'growth, MB': found['end_mb'] - found['ready_mb'],
    }


if __name__ == '__main__':
    main()
