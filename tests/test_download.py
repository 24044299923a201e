"""Fetching from a server that lies, stalls, floods and breaks off, and unpacking what strangers packed: every URL accounted for, nothing half-written,
nothing outside. All servers are on 127.0.0.1. `VISLEARN_FULL=1` runs the long forms."""

import csv
import gzip
import io
import json
import os
import random
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from vislearn.collect import images as collect
from vislearn.collect.archive import ArchiveError, extract_archive
from vislearn.collect.download import URLs, download_url, download_urls, fetch, untar_data
from vislearn.collect.images import SearchError, download_images, picture_suffix, search_images_bing, search_images_ddg
from vislearn.collect.samples import sample_data
from vislearn.collect.urls import FetchError, Limits, clean_url, is_public, url_name
from vislearn.data.decode import image_extensions, image_formats
from vislearn.data.files import get_image_files
from vislearn.data.verify import BadImages, verify_image, verify_images
from vislearn.io import vislearn_home

FULL = bool(os.environ.get('VISLEARN_FULL'))


def picture(seed=0, fmt='JPEG', size=(40, 30)):
    im = Image.frombytes('RGB', size, random.Random(seed).randbytes(3 * size[0] * size[1]))
    buf = io.BytesIO()
    im.save(buf, fmt)
    return buf.getvalue()


PICS = {i: picture(i, ('JPEG', 'PNG', 'GIF', 'WEBP')[i % 4]) for i in range(8)}

# ------------------------------------------------------------------ a server with bad habits


class Hostile(socketserver.StreamRequestHandler):
    asked, lock = Counter(), threading.Lock()

    def handle(self):
        try:
            self.connection.settimeout(60)
            request = self.rfile.readline().decode('latin-1').split()
            while self.rfile.readline().strip():
                pass
            if len(request) < 2:
                return
            self.path = request[1]
            url = urlsplit(self.path)
            habit = url.path.split('/')[1]
            with Hostile.lock:
                Hostile.asked[self.path] += 1
                self.n = Hostile.asked[self.path]
            getattr(self, habit.split('.')[0], self.gone)(url)
        except OSError:
            pass  # the client has had enough

    def send(self, body=b'', status='200 OK', length=None, **headers):
        length = len(body) if length is None else length
        head = [
            f'HTTP/1.1 {status}',
            'Connection: close',
            *([f'Content-Length: {length}'] if length >= 0 else []),
            *(f'{k.replace("_", "-")}: {v}' for k, v in headers.items()),
        ]
        self.wfile.write('\r\n'.join(head).encode('latin-1') + b'\r\n\r\n' + body)

    def drip(self, data, every):
        for b in data:
            self.wfile.write(bytes([b]))
            self.wfile.flush()
            time.sleep(every)

    def pic(self, url):
        self.send(PICS[int(url.path.split('/')[2].split('.')[0]) % 8])

    def fresh(self, url):
        self.send(picture(int(url.path.split('/')[2].split('.')[0])))

    def signed(self, url):
        self.send(PICS[1]) if url.query == 'token=a%2Fb+c&w=3' else self.send(status='403 Forbidden')

    def photo(self, url):
        self.send(PICS[0])  # /photo.php

    def gone(self, url):
        self.send(b'nothing here', '404 Not Found')

    def teapot(self, url):
        self.send(status='418 \x01\x02strange')

    def busy(self, url):
        self.send(status='503 Busy') if self.n < 3 else self.send(PICS[2])

    def alwaysbusy(self, url):
        self.send(status='500 Oops')

    def soon(self, url):
        self.send(status='429 Slow Down', Retry_After='0.2') if self.n < 2 else self.send(PICS[3])

    def later(self, url):
        self.send(status='429 Slow Down', Retry_After='3600')

    def laterdate(self, url):
        self.send(status='503 Busy', Retry_After='Fri, 31 Dec 2100 23:59:59 GMT')

    def page(self, url):
        self.send(b'<!DOCTYPE html><title>Sign in</title>' * 50, Content_Type='image/jpeg')

    def empty(self, url):
        self.send(b'')

    def nocontent(self, url):
        self.send(b'', '204 No Content')

    def short(self, url):
        self.send(PICS[0][:200], length=len(PICS[0]))

    def halfjpeg(self, url):
        self.send(PICS[0][:200])  # honest length, half a picture

    def chunkcut(self, url):
        self.send(b'64\r\n' + b'x' * 40, length=-1, Transfer_Encoding='chunked')

    def chunked(self, url):
        self.send(
            b''.join(b'%x\r\n%b\r\n' % (len(c), c) for c in (PICS[1][:100], PICS[1][100:])) + b'0\r\n\r\n',
            length=-1,
            Transfer_Encoding='chunked',
        )

    def badchunks(self, url):
        self.send(b'zz\r\nhello', length=-1, Transfer_Encoding='chunked')

    def gz(self, url):
        self.send(gzip.compress(PICS[0]), Content_Encoding='gzip')

    def gzcut(self, url):
        self.send(gzip.compress(PICS[0])[:100], Content_Encoding='gzip')

    def gzbad(self, url):
        self.send(b'\x1f\x8b' + b'garbage' * 20, Content_Encoding='gzip')

    def gzbomb(self, url):
        self.send(BOMB, Content_Encoding='gzip')

    def brotli(self, url):
        self.send(b'xx', Content_Encoding='br')

    def liar(self, url):
        self.send(b'x', length=10**12)

    def flood(self, url):
        self.send(length=-1)
        while True:
            self.wfile.write(bytes(2**16))
            Hostile.asked['flooded'] += 2**16

    def hang(self, url):
        time.sleep(30)

    def hangbody(self, url):
        self.send(b'x' * 10, length=1000)
        time.sleep(30)

    def drips(self, url):
        self.send(length=10**6)
        self.drip(b'x' * 10**6, 0.05)

    def dripheaders(self, url):
        self.drip(b'HTTP/1.1 200 OK\r\n' + b'A: b\r\n' * 10**5, 0.05)

    def manyheaders(self, url):
        self.wfile.write(b'HTTP/1.1 200 OK\r\n' + b'A: b\r\n' * 10**4 + b'\r\n')

    def longheader(self, url):
        self.wfile.write(b'HTTP/1.1 200 OK\r\nA: ' + b'b' * 10**6 + b'\r\n\r\n')

    def nonsense(self, url):
        self.wfile.write(b'SSH-2.0-OpenSSH_9.6\r\n')

    def mute(self, url):
        pass

    def reset(self, url):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
        self.connection.close()

    def moved(self, url):
        self.send(status='302 Found', Location='/pic/0?from=here')

    def loop(self, url):
        self.send(status='302 Found', Location='/loop')

    def tofile(self, url):
        self.send(status='301 Moved', Location='file:///etc/hostname')

    def toftp(self, url):
        self.send(status='301 Moved', Location='ftp://127.0.0.1/x')

    def floodedmove(self, url):
        self.send(b'x' * 10**7, '302 Found', Location='/pic/1')

    def endlessmove(self, url):
        self.send(status='302 Found', length=-1, Location='/pic/1')
        while True:
            self.wfile.write(bytes(2**16))

    def noplace(self, url):
        self.send(status='302 Found')

    def svg(self, url):
        self.send(
            b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', Content_Type='image/svg+xml'
        )

    def eps(self, url):
        self.send(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF')

    def big(self, url):
        self.send(HUGE)

    def ddg(self, url):
        self.send(b'<script>vqd="4-123";</script>')


BOMB = gzip.compress(bytes(50_000_000))


def _huge():
    "A PNG of a few bytes that announces 400 megapixels."

    def chunk(kind, data):
        return len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')

    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', (20000).to_bytes(4, 'big') * 2 + b'\x08\0\0\0\0')
        + chunk(b'IDAT', zlib.compress(b'\0' * 1000))
        + chunk(b'IEND', b'')
    )


HUGE = _huge()


@pytest.fixture(scope='module')
def web():
    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
        request_queue_size = 100

    with Server(('127.0.0.1', 0), Hostile) as s:
        s.handle_error = lambda *a: None
        threading.Thread(target=s.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{s.server_address[1]}'
        s.shutdown()


def bytes_of(url, **limits):
    out = io.BytesIO()
    final, n = fetch(url, out, Limits(**limits))
    assert n == len(out.getvalue())
    return final, out.getvalue()


def leftovers(folder):
    return [
        o
        for o in Path(folder).rglob('*')
        if o.name.endswith('.part') or o.name.startswith(('.unpacking', '.fresh', '.drawing'))
    ]


# ------------------------------------------------------------------ one URL


@pytest.mark.parametrize(
    'path,pic',
    [
        ('pic/1', 1),
        ('signed?token=a%2Fb+c&w=3', 1),
        ('busy', 2),
        ('soon', 3),
        ('chunked', 1),
        ('gz', 0),
        ('moved', 0),
        ('floodedmove', 1),
        ('endlessmove', 1),
        ('pic/0#part', 0),
    ],
)
def test_good_answers(web, path, pic):
    assert bytes_of(f'{web}/{path}')[1] == PICS[pic]


def test_the_query_stays_and_the_final_url_is_told(web):
    assert bytes_of(f'{web}/moved')[0] == f'{web}/pic/0?from=here'


@pytest.mark.parametrize(
    'path,says',
    [
        ('gone', '404 Not Found'),
        ('teapot', '418'),
        ('alwaysbusy', '500'),
        ('later', '3600 s'),
        ('laterdate', 'too late'),
        ('short', 'cut short'),
        ('chunkcut', 'cut short'),
        ('badchunks', 'cut short|not proper http'),
        ('gzcut', None),
        ('gzbad', 'damaged'),
        ('gzbomb', 'larger than'),
        ('brotli', 'packs with'),
        ('liar', 'larger than'),
        ('manyheaders', 'not proper http'),
        ('longheader', 'not proper http'),
        ('nonsense', 'not proper http'),
        ('mute', 'no '),
        ('reset', 'no connection'),
        ('loop', 'redirects'),
        ('tofile', 'only http'),
        ('toftp', 'only http'),
        ('noplace', '302'),
    ],
)
def test_bad_answers_are_told_in_words(web, path, says):
    t = time.monotonic()
    if says is None:  # a gzip stream without its end: what came is short, the decoder will say so
        with pytest.raises(ValueError):
            picture_suffix(bytes_of(f'{web}/{path}')[1])
        return
    with pytest.raises(FetchError, match=says):
        bytes_of(f'{web}/{path}', tries=2, total=20)
    assert time.monotonic() - t < 10


@pytest.mark.parametrize('path', ['hang', 'hangbody', 'drips', 'dripheaders', 'flood'])
def test_no_url_takes_longer_than_allowed(web, path):
    t = time.monotonic()
    with pytest.raises(FetchError, match='longer than 1'):
        bytes_of(f'{web}/{path}', total=1, max_bytes=None if path != 'flood' else None)
    assert time.monotonic() - t < 2


def test_silence_is_noticed_before_the_end(web):
    t = time.monotonic()
    with pytest.raises(FetchError, match='no answer'):
        bytes_of(f'{web}/hang', read=0.3, tries=1)
    assert time.monotonic() - t < 2


def test_too_much_is_stopped_within_a_megabyte(web):
    Hostile.asked['flooded'] = 0
    out = io.BytesIO()
    with pytest.raises(FetchError, match='larger than 2,000,000'):
        fetch(f'{web}/flood', out, Limits(max_bytes=2_000_000))
    assert len(out.getvalue()) <= 3_000_000


def test_gone_is_asked_once_and_busy_again(web):
    for path, n in (('gone?x', 1), ('alwaysbusy?x', 3), ('short?x', 3)):
        with pytest.raises(FetchError):
            bytes_of(f'{web}/{path}')
        assert Hostile.asked['/' + path] == n


def test_private_addresses(web):
    with pytest.raises(FetchError, match='private'):
        bytes_of(f'{web}/pic/0', allow_private=False)
    for name in ('localhost', '0.0.0.0', '[::1]', '127.1', '2130706433', '0x7f000001'):
        with pytest.raises(FetchError):
            bytes_of(f'http://{name}:{urlsplit(web).port}/pic/0', allow_private=False, tries=1)
    assert not any(
        map(
            is_public,
            [
                '10.0.0.1',
                '172.16.0.1',
                '192.168.1.1',
                '169.254.169.254',
                '100.64.0.1',
                'fd00::1',
                'fe80::1%eth0',
                '::ffff:10.0.0.1',
                '2002:7f00:1::',
                '64:ff9b::a00:1',
                '::',
                '240.0.0.1',
            ],
        )
    )


def test_a_name_that_stands_for_two_addresses_is_refused_if_one_is_private(web, monkeypatch):
    monkeypatch.setattr(
        socket,
        'getaddrinfo',
        lambda *a, **k: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, '', (ip, 80)) for ip in ('93.184.216.34', '127.0.0.1')
        ],
    )
    with pytest.raises(FetchError, match='private'):
        bytes_of('http://two.example/', allow_private=False)


def test_the_text_of_a_signed_url_is_sent_as_it_is(web):
    with pytest.raises(FetchError, match='404'):
        bytes_of(f'{web}/gone?sig=%41~%2F%3d')
    assert Hostile.asked['/gone?sig=%41~%2F%3D'] == 1


def test_a_server_with_an_unknown_certificate_is_refused(tmp_path):
    if shutil.which('openssl') is None:
        pytest.skip('needs openssl to make a certificate')
    make = 'openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost'
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / 'cert.pem', tmp_path / 'key.pem')
    with socketserver.ThreadingTCPServer(('127.0.0.1', 0), Hostile) as server:
        server.handle_error = lambda *a: None
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(FetchError, match='certificate cannot be trusted'):
            bytes_of(f'https://localhost:{server.server_address[1]}/pic/0')
        server.shutdown()


def test_nobody_there():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with pytest.raises(FetchError, match='no connection'):
        bytes_of(f'http://127.0.0.1:{port}/', tries=1)
    with pytest.raises(FetchError, match='name'):
        bytes_of('http://no-such-host.invalid/', tries=1)


@pytest.mark.parametrize(
    'url',
    [
        '',
        'x.jpg',
        '/etc/passwd',
        'file:///etc/passwd',
        'ftp://x/y',
        'data:image/png;base64,xx',
        'javascript:1',
        'http://',
        'http://[::1',
        'http://x:99999/',
        'http://' + 'a' * 300 + '.com/',
        'http://x:port/',
        'http:// /',
    ],
)
def test_what_is_no_url(url):
    with pytest.raises(FetchError):
        bytes_of(url, tries=1, total=5)


def test_odd_urls_are_made_sendable(web):
    assert (
        clean_url('HTTP://x.example/a b?q=ü#f') == 'http://x.example/a%20b?q=%C3%BC'
        and clean_url('http://x/%41') == 'http://x/%41'
    )
    assert bytes_of(f'{web}/pic/1?name=grün and ✓')[1] == PICS[1]


# ------------------------------------------------------------------ one file


def test_download_url(web, tmp_path):
    assert download_url(f'{web}/pic/1.jpg', tmp_path / 'new' / 'a.jpg').read_bytes() == PICS[1]
    assert download_url(f'{web}/pic/0.jpg?w=3', tmp_path) == tmp_path / '0.jpg'
    for path in ('short', 'gone', 'chunkcut'):
        (tmp_path / 'old.bin').write_bytes(b'old')
        with pytest.raises(FetchError, match=path):
            download_url(f'{web}/{path}', tmp_path / 'old.bin', timeout=5)
        assert (tmp_path / 'old.bin').read_bytes() == b'old'  # what was there is not lost
    with pytest.raises(FetchError, match='sha256'):
        download_url(f'{web}/pic/1', tmp_path / 'b', sha256='0' * 64)
    assert not leftovers(tmp_path) and not (tmp_path / 'b').exists()


@pytest.mark.parametrize(
    'url,name',
    [
        ('http://x/a/b.jpg', 'b.jpg'),
        ('http://x/..', 'download'),
        ('http://x/%2e%2e%2fetc%2fpasswd', 'etc_passwd'),
        ('http://x/aux.png', 'aux_.png'),
        ('http://x/a:b*?.jpg', 'a_b'),
        ('http://x/.hidden', 'hidden'),
        ('http://x/-rf.jpg', '-rf.jpg'),
        ('http://x/%00%0a.jpg', 'jpg'),
        ('http://x/' + 'é' * 300 + '.jpeg', 'é' * 50 + '.jpeg'),
    ],
)
def test_names_from_urls(url, name):
    assert url_name(url) == name


# ------------------------------------------------------------------ many URLs


@pytest.mark.filterwarnings('ignore:.*gave no picture')
def test_download_images_accounts_for_every_url(web, tmp_path):
    paths = [
        'pic/0',
        'pic/1',
        'pic/2.jpg',
        'pic/3',
        'pic/0?again',
        'photo.php',
        'signed?token=a%2Fb+c&w=3',
        'busy?b',
        'soon?b',
        'page',
        'gone',
        'empty',
        'nocontent',
        'short',
        'halfjpeg',
        'gz',
        'gzbomb',
        'liar',
        'loop',
        'tofile',
        'svg',
        'eps',
        'big',
        'mute',
        'chunked',
        'pic/0',
        'hang',
        'drips',
    ]
    urls = [f'{web}/{o}' for o in paths] + ['file:///etc/hostname', '']
    t = time.monotonic()
    report = download_images(tmp_path / 'd', urls=urls, timeout=4, per_host=8)
    seconds = time.monotonic() - t
    assert (
        seconds < 15
        and [o.url for o in report] == [o for o in urls if o]
        and all(o.status in ('ok', 'failed', 'skipped') for o in report)
    )
    got = {o.url.removeprefix(web + '/'): o for o in reversed(report)}
    ok = {k for k, o in got.items() if o.status == 'ok'}
    assert {'pic/0', 'pic/1', 'pic/2.jpg', 'pic/3'} <= ok and all(o.reason for o in report if o.status != 'ok')
    assert {k for k, o in got.items() if o.status == 'failed'} == {
        'page',
        'gone',
        'empty',
        'nocontent',
        'short',
        'halfjpeg',
        'gzbomb',
        'liar',
        'loop',
        'tofile',
        'svg',
        'eps',
        'big',
        'mute',
        'hang',
        'drips',
        'file:///etc/hostname',
    }
    assert (
        got['pic/0?again'].reason == f'same content as {web}/pic/0'
        and report[paths.index('pic/0', 1)].reason == 'the same URL twice'
    )
    files = [f for f in (tmp_path / 'd').iterdir() if f.name != 'downloads.csv']
    assert (
        sorted(files) == sorted(report.paths)
        and {f.suffix for f in files} == {'.jpg', '.png', '.gif', '.webp'}
        and not verify_images(files)
    )
    assert {f.read_bytes() for f in files} == {PICS[i] for i in range(4)} and not leftovers(tmp_path)
    assert 'web page' in got['page'].reason and '20000 x 20000 pixels' in got['big'].reason
    rows = list(csv.DictReader(open(tmp_path / 'd' / 'downloads.csv', newline='')))
    assert {r['url'] for r in rows} == {o.url for o in report} and len(
        list(csv.DictReader(open(report.to_csv(tmp_path / 'r.csv'))))
    ) == len(report)


def test_a_second_run_fetches_only_what_failed(web, tmp_path):
    urls = [f'{web}/pic/{i}?second' for i in range(6)] + [f'{web}/gone?second']
    a = download_images(tmp_path, urls=urls)
    before = {f: f.stat().st_mtime_ns for f in tmp_path.glob('*.[jpgw]*')}
    b = download_images(tmp_path, urls=urls)
    assert {f: f.stat().st_mtime_ns for f in tmp_path.glob('*.[jpgw]*')} == before and a.paths == b.paths
    assert [Hostile.asked[u.removeprefix(web)] for u in urls] == [1] * 6 + [2] and b.counts() == dict(
        ok=0, failed=1, skipped=6
    )


def test_two_of_one_name_are_both_kept(web, tmp_path):
    urls = [f'{web}/pic/1.jpg?a', f'{web}/fresh/1.jpg?b', f'{web}/pic/2.jpg']
    for seed in range(2):
        r = download_images(tmp_path / str(seed), urls=urls[::-1] if seed else urls, preserve_filename=True)
        assert r.counts()['ok'] == 3 and len(r.paths) == 3
    assert {f.name for f in (tmp_path / '0').glob('*')} == {f.name for f in (tmp_path / '1').glob('*')} and (
        tmp_path / '0' / '2.gif'
    ).exists()


def test_preserved_names_never_overwrite(web, tmp_path):
    (tmp_path / '1.png').write_bytes(b'mine')
    r = download_images(tmp_path, urls=[f'{web}/pic/1.jpg'], preserve_filename=True)
    assert (tmp_path / '1.png').read_bytes() == b'mine' and r[0].path.read_bytes() == PICS[1]
    long = download_images(
        tmp_path, urls=[f'{web}/pic/2.{"x" * 400}', f'{web}/photo.php?{"y" * 3000}'], preserve_filename=True
    )
    assert long.counts()['ok'] == 2


def test_limit_for_the_whole_download(web, tmp_path):
    r = download_urls(
        tmp_path, [f'{web}/flood?{i}' for i in range(6)], max_bytes=1_000_000, max_total=1_500_000, n_workers=2
    )
    assert r.counts()['ok'] == 0 and 'whole download' in r[-1].reason and r[-1].status == 'skipped'


def test_urls_from_a_file_and_max_pics(web, tmp_path):
    (tmp_path / 'u.txt').write_text(f'{web}/pic/0?f\n\n {web}/pic/1?f \r\n{web}/pic/2?f')
    r = download_images(tmp_path / 'd', tmp_path / 'u.txt', max_pics=2)
    assert r.counts() == dict(ok=2, failed=0, skipped=1) and 'beyond' in r[2].reason
    for kw in ({}, dict(urls='http://x'), dict(urls=[], url_file='x')):
        with pytest.raises(ValueError):
            download_images(tmp_path, **kw)


def test_fastais_call(web, tmp_path):
    r = download_images(
        tmp_path / 'a' / 'b', urls=[f'{web}/pic/0'], max_pics=10, n_workers=4, timeout=4, preserve_filename=False
    )
    assert r.counts()['ok'] == 1


def test_most_failing_warns(web, tmp_path):
    with pytest.warns(UserWarning, match='3 of 4 URLs gave no picture'):
        download_images(tmp_path, urls=[f'{web}/pic/0', *(f'{web}/gone?{i}' for i in range(3))])


def test_never_more_than_two_at_a_time_from_a_host(web, tmp_path, monkeypatch):
    now, most, lock = [0], [0], threading.Lock()
    import vislearn.collect.download as d

    real = d.fetch

    def watched(*a, **k):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        try:
            time.sleep(0.01)
            return real(*a, **k)
        finally:
            now[0] -= 1

    monkeypatch.setattr(d, 'fetch', watched)
    download_images(tmp_path, urls=[f'{web}/pic/0?{i}' for i in range(20)])
    assert most[0] == 2
    most[0] = 0
    download_images(tmp_path, urls=[f'{web}/pic/1?{i}' for i in range(20)], per_host=8)
    assert 2 < most[0] <= 8


def test_a_full_disk_is_not_a_bad_url(web, tmp_path, monkeypatch):
    import vislearn.collect.download as d

    monkeypatch.setattr(d, '_write_whole', lambda *a: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(OSError, match='No space'):
        download_images(tmp_path, urls=[f'{web}/pic/0?disk'])


N = 1000 if FULL else 200
FAULTS = ['gone', 'short', 'page', 'empty', 'alwaysbusy', 'mute', 'liar', 'loop', 'halfjpeg', 'reset']


def mixed_urls(web, n, seed=0):
    return [f'{web}/{FAULTS[i // 10 % 10] if i % 10 < 3 else "fresh"}/{i}?s={seed}' for i in range(n)]  # 30 % faults


def test_a_thousand_urls_with_thirty_percent_faults(web, tmp_path, recwarn):
    urls = mixed_urls(web, N)
    report = download_images(tmp_path, urls=urls, max_pics=N, per_host=16, n_workers=16, timeout=30)
    assert [o.url for o in report] == urls and report.counts() == dict(ok=N * 7 // 10, failed=N * 3 // 10, skipped=0)
    assert all(o.reason for o in report.of('failed')) and not leftovers(tmp_path)
    assert len(get_image_files(tmp_path)) == N * 7 // 10 and not verify_images(get_image_files(tmp_path))


def test_killed_and_started_again_gives_the_same_files(web, tmp_path):
    "kill -9 at many moments; the last run finds what is there and gets the rest."
    urls = mixed_urls(web, 60, seed='kill')
    download_images(tmp_path / 'whole', urls=urls, per_host=8)
    code = "import sys,json; from vislearn.collect.images import download_images; print('go', flush=True); download_images(sys.argv[1], urls=json.loads(sys.argv[2]), per_host=8)"
    for k in range(20 if FULL else 2):
        p = subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-c', code, str(tmp_path / 'cut'), json.dumps(urls)],
            stdout=subprocess.PIPE,
        )
        p.stdout.readline()
        time.sleep(0.05 + 0.06 * k)
        p.kill()
        p.wait()
        p.stdout.close()
    (tmp_path / 'cut' / '.00000000-999999999-00000000.part').write_bytes(b'half')  # as if one had been caught writing
    download_images(tmp_path / 'cut', urls=urls, per_host=8)

    def files(d):
        return {f.name: f.read_bytes() for f in d.iterdir() if f.name != 'downloads.csv'}

    assert files(tmp_path / 'cut') == files(tmp_path / 'whole') and not leftovers(tmp_path)


def test_a_part_that_is_being_written_is_left_alone(web, tmp_path):
    busy = tmp_path / f'.00000000-{os.getppid()}-00000000.part'
    busy.write_bytes(b'x')
    download_images(tmp_path, urls=[f'{web}/pic/0?part'])
    assert busy.exists()


def test_interrupt_leaves_nothing_half_done(web, tmp_path):
    if os.name == 'nt':
        pytest.skip('no SIGINT to a process there')
    code = "import sys; from vislearn.collect.images import download_images; print('go', flush=True); download_images(sys.argv[1], urls=[sys.argv[2]+f'/drips?{i}' for i in range(9)]+[sys.argv[2]+'/pic/0'], timeout=20)"
    p = subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path), web], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    p.stdout.readline()
    time.sleep(0.5)
    t = time.monotonic()
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=20)[1]
    assert b'KeyboardInterrupt' in err and time.monotonic() - t < 8 and not leftovers(tmp_path)


# ------------------------------------------------------------------ search


def test_search(web, monkeypatch):
    pages = {
        '/i.js': dict(results=[dict(image=f'http://x/{i}') for i in (0, 1, 1)], next='i.js?p=2'),
        '/i.js?': dict(results=[dict(image='http://x/2')]),
    }
    asked = []

    def ask(url, **params):
        asked.append((url, params))
        return (
            '<script>vqd=4-12&x'
            if 'q' in params and 'vqd' not in params
            else json.dumps(pages['/i.js' if params else '/i.js?'])
        )

    monkeypatch.setattr(collect, '_ask', ask)
    found = search_images_ddg('bears')
    assert (
        found == ['http://x/0', 'http://x/1', 'http://x/2'] == found.attrgot('contentUrl')
        and search_images_ddg('bears', max_images=2) == found[:2]
    )
    with pytest.warns(UserWarning, match='closed'):
        assert search_images_bing('XXX', 'bears') == found
    with pytest.warns(UserWarning):
        search_images_bing('grizzly bear', '0123456789abcdef' * 4)
    assert asked[-3][1]['q'] == 'grizzly bear'


@pytest.mark.parametrize('habit', ['gone', 'page', 'ddg', 'hang', 'alwaysbusy'])
def test_search_that_is_gone_says_what_else_to_do(web, monkeypatch, habit):
    monkeypatch.setattr(collect, '_ddg', f'{web}/{habit}/')
    monkeypatch.setattr(collect, 'Limits', lambda **k: Limits(total=1))
    with pytest.raises(SearchError, match=r'DuckDuckGo gave no pictures.*url_file.*untar_data.*sample_data'):
        search_images_ddg('bears')


# ------------------------------------------------------------------ archives


def tar_of(f, *members, mode='w:gz'):
    with tarfile.open(f, mode) as t:
        for name, data, *attrs in members:
            m = tarfile.TarInfo(name)
            m.size = len(data or b'')
            for k, v in (attrs[0] if attrs else {}).items():
                setattr(m, k, v)
            t.addfile(m, io.BytesIO(data or b''))
    return f


def zip_of(f, *members, **attrs):
    with zipfile.ZipFile(f, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, data in members:
            i = zipfile.ZipInfo('x')
            i.filename = name
            i.compress_type = zipfile.ZIP_DEFLATED
            for k, v in attrs.items():
                setattr(i, k, v)
            z.writestr(i, data)
    return f


def header_bomb(f):
    "A pax header that announces ten gigabytes."
    m = tarfile.TarInfo('x')
    m.type, m.size = tarfile.XHDTYPE, 10**10
    f.write_bytes(gzip.compress(m.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
    return f


def locked(data):
    "A zip whose entry says that it needs a password."
    data = bytearray(data)
    data[6] |= 1
    data[data.index(b'PK\1\2') + 8] |= 1
    return data


def damaged(f, make, at):
    make(f)
    data = bytearray(f.read_bytes())
    data[at] ^= 0xFF
    f.write_bytes(data)
    return f


PETS = (('pets/cat/1.txt', b'meow' * 50), ('pets/dog/2.txt', b'wuff' * 50))
HOSTILE = dict(
    climbs=lambda f: tar_of(f, *PETS, ('../../evil', b'x')),
    climbs_inside=lambda f: tar_of(f, ('a/../../evil', b'x')),
    absolute=lambda f: tar_of(f, ('/vislearn_evil', b'x')),
    symlink=lambda f: tar_of(f, ('out', None, dict(type=tarfile.SYMTYPE, linkname='/etc'))),
    through_symlink=lambda f: tar_of(f, ('out', None, dict(type=tarfile.SYMTYPE, linkname='..')), ('out/evil', b'x')),
    harmless_symlink=lambda f: tar_of(f, ('a', b'x'), ('b', None, dict(type=tarfile.SYMTYPE, linkname='a'))),
    hardlink=lambda f: tar_of(f, ('b', None, dict(type=tarfile.LNKTYPE, linkname='/etc/hostname'))),
    device=lambda f: tar_of(f, ('d', None, dict(type=tarfile.CHRTYPE, devmajor=1, devminor=5))),
    pipe=lambda f: tar_of(f, ('p', None, dict(type=tarfile.FIFOTYPE))),
    twice=lambda f: tar_of(f, ('a', b'1'), ('a', b'2')),
    file_as_folder=lambda f: tar_of(f, ('a', b'1'), ('a/b', b'2')),
    bomb=lambda f: tar_of(f, ('z', bytes(30_000_000))),
    many_small=lambda f: tar_of(f, *((f'{i}', bytes(5000)) for i in range(3000))),
    header_bomb=header_bomb,
    drive=lambda f: tar_of(f, ('C:/x', b'')),
    backslash=lambda f: tar_of(f, ('a\\..\\..\\x', b'')),
    long_name=lambda f: tar_of(f, ('x' * 300, b'')),
    zip_climbs=lambda f: zip_of(f, ('../evil', b'x')),
    zip_absolute=lambda f: zip_of(f, ('/evil', b'x')),
    zip_symlink=lambda f: zip_of(f, ('l', b'/etc'), create_system=3, external_attr=0o120777 << 16),
    zip_bomb=lambda f: zip_of(f, ('z', bytes(30_000_000))),
    zip_backslash=lambda f: zip_of(f, ('..\\evil', b'x')),
    zip_twice=lambda f: zip_of(f, ('a', b'1'), ('a', b'2')),
    zip_locked=lambda f: f.write_bytes(locked(zip_of(f, ('a', b'1' * 50)).read_bytes())),
    html=lambda f: f.write_bytes(b'<!DOCTYPE html>' * 100),
    empty=lambda f: f.write_bytes(b''),
    cut=lambda f: f.write_bytes(tar_of(f, ('a', os.urandom(5000))).read_bytes()[:3000]),
    cut_zip=lambda f: f.write_bytes(zip_of(f, ('a', os.urandom(5000))).read_bytes()[:3000]),
    cut_plain=lambda f: f.write_bytes(tar_of(f, ('a', os.urandom(5000)), mode='w').read_bytes()[:3000]),
    flipped=lambda f: damaged(f, lambda f: zip_of(f, ('a', os.urandom(5000))), 2000),
)


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('kind', HOSTILE)
def test_hostile_archives_leave_nothing(tmp_path, kind):
    import resource

    inner = tmp_path / 'a' / 'b'
    inner.mkdir(parents=True)
    f = inner / 'x.bin'
    HOSTILE[kind](f)
    before = set(tmp_path.rglob('*'))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArchiveError, match='x.bin is not unpacked') as e:
        extract_archive(f, inner / 'out')
    assert set(tmp_path.rglob('*')) == before and not os.path.exists('/vislearn_evil') and len(str(e.value)) > 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 200_000  # KB


def test_good_archives(tmp_path):
    for i, f in enumerate(
        [
            tar_of(tmp_path / 'a.tgz', *PETS),
            tar_of(tmp_path / 'b.tar', *PETS, mode='w'),
            tar_of(tmp_path / 'c.bin', *PETS, mode='w:bz2'),
            tar_of(tmp_path / 'd', *PETS, mode='w:xz'),
            zip_of(tmp_path / 'e.zip', *PETS, ('pets/', b'')),
        ]
    ):
        out = extract_archive(f, tmp_path / f'out{i}')
        assert {o.relative_to(out).as_posix(): o.read_bytes() for o in out.rglob('*') if o.is_file()} == {
            k.removeprefix('pets/'): v for k, v in PETS
        }
    two = extract_archive(tar_of(tmp_path / 'two.tgz', ('x/1', b''), ('y/2', b'')), tmp_path / 'two')
    assert {o.name for o in two.iterdir()} == {'x', 'y'}
    with pytest.raises(FileExistsError):
        extract_archive(tmp_path / 'a.tgz', tmp_path / 'two')


def test_modes_and_owners_are_ours(tmp_path):
    if os.name == 'nt':
        pytest.skip('no such modes there')
    out = extract_archive(
        tar_of(tmp_path / 'a.tgz', ('s', b'x', dict(mode=0o6777, uid=0)), ('t', b'', dict(mode=0))), tmp_path / 'o'
    )
    assert not any((out / o).stat().st_mode & 0o7111 for o in 'st') and (out / 't').stat().st_mode & 0o400


def test_untar_data(web, tmp_path, monkeypatch):
    packed = tar_of(tmp_path / 'pets.tgz', *PETS).read_bytes()
    sent = [packed[:100], packed]
    monkeypatch.setattr(Hostile, 'pets', lambda self, url: self.send(sent[0]), raising=False)
    url = f'{web}/pets.tgz'
    monkeypatch.setenv('VISLEARN_HOME', str(tmp_path / 'home'))
    with pytest.raises(ArchiveError):
        untar_data(url)
    assert not leftovers(tmp_path) and not (tmp_path / 'home' / 'data' / 'pets').exists()
    sent[0] = packed
    path = untar_data(url)  # the damaged file is not used again
    assert (
        path == URLs.path(url, 'data') == tmp_path / 'home' / 'data' / 'pets'
        and (path / 'cat' / '1.txt').exists()
        and URLs.path(url).exists()
    )
    n = Hostile.asked['/pets.tgz']
    assert untar_data(url) == path and Hostile.asked['/pets.tgz'] == n
    (path / 'extra').write_bytes(b'')
    untar_data(url, force_download=True)
    assert not (path / 'extra').exists() and Hostile.asked['/pets.tgz'] == n + 1
    with pytest.raises(FetchError, match='sample_data'):
        untar_data(f'{web}/gone.tgz')
    assert untar_data(url, data=tmp_path / 'elsewhere') == tmp_path / 'elsewhere' / 'pets'
    assert (
        URLs.PETS.endswith('/oxford-iiit-pet.tgz')
        and URLs.IMAGENETTE_160.endswith('imagenette2-160.tgz')
        and all(v.startswith('https://') for k, v in vars(URLs).items() if k.isupper())
    )


# ------------------------------------------------------------------ verify


def test_verify_images(tmp_path):
    for i in range(8):
        (tmp_path / f'{i}.jpg').write_bytes(PICS[i])
    (tmp_path / 'cut.jpg').write_bytes(PICS[0][:300])
    (tmp_path / 'empty.png').write_bytes(b'')
    (tmp_path / 'page.jpg').write_bytes(b'<html>')
    failed = verify_images([*sorted(tmp_path.iterdir()), tmp_path / 'gone.jpg'])
    assert (
        [f.name for f in failed] == ['cut.jpg', 'empty.png', 'page.jpg', 'gone.jpg']
        and set(failed.reasons) == set(failed)
        and all(failed.reasons.values())
    )
    assert (
        failed.n_seen == 12
        and sum(failed.counts().values()) == 4
        and not verify_image(tmp_path / 'cut.jpg')
        and verify_image(tmp_path / '1.jpg')
    )
    assert [r['path'] for r in csv.DictReader(open(failed.to_csv(tmp_path / 'bad.csv')))] == [
        str(f) for f in failed
    ] and 'cut.jpg' in repr(failed)
    failed[:3].map(Path.unlink)
    assert not verify_images(get_image_files(tmp_path)) and type(failed[:2]) is not BadImages


def test_every_format_has_a_suffix_that_is_found_again(tmp_path):
    Image.init()
    for fmt in set(image_formats) & set(Image.SAVE):
        try:
            data = picture(3, fmt, (48, 48))
        except OSError:
            continue  # a format that can't hold RGB
        assert picture_suffix(data) in image_extensions, fmt


# ------------------------------------------------------------------ the built-in data


def tree(path):
    return {f.relative_to(path).as_posix(): f.read_bytes() for f in path.rglob('*') if f.is_file()}


def test_sample_data_is_a_function_of_its_seed(tmp_path):
    kw = dict(n_per_class=3, size=64)
    a, b, c = (sample_data(home=tmp_path / o, seed=s, **kw) for o, s in (('a', 0), ('b', 0), ('c', 1)))
    assert tree(a) == tree(b) != tree(c) and a.name == b.name and not leftovers(tmp_path)


def test_sample_data_is_as_its_manifest_says(tmp_path):
    path = sample_data(n_per_class=25, size=64, home=tmp_path)
    notes = json.loads((path / '.manifest.json').read_text())
    fns = get_image_files(path)
    assert (
        len(fns) == 150 + len(notes['damaged'])
        and len(notes['mislabelled']) == 4
        and set(notes['damaged'].values()) == {'truncated', 'empty', 'html'}
    )
    assert {f.relative_to(path).as_posix() for f in verify_images(fns)} == set(notes['damaged'])
    assert all(f.split('/')[0] != true for f, true in notes['mislabelled'].items()) and {f.suffix for f in fns} == {
        '.jpg',
        '.png',
    }
    good = [Image.open(f) for f in fns if f.relative_to(path).as_posix() not in notes['damaged']]
    assert (
        {im.getexif().get(274) for im in good} == {None, 6}
        and {im.mode for im in good} >= {'L', 'RGB'}
        and len({im.size for im in good}) > 20
    )
    clean = sample_data(n_per_class=5, size=64, home=tmp_path, clean=True)
    assert (
        len(get_image_files(clean)) == 30
        and json.loads((clean / '.manifest.json').read_text()) == dict(mislabelled={}, damaged={})
        and not verify_images(get_image_files(clean))
    )


def test_scenes_tell_what_is_in_them(tmp_path):
    path = sample_data('scenes', n_per_class=10, size=64, home=tmp_path)
    rows = {}
    for part, n in (('train', 48), ('val', 12)):
        table = list(csv.DictReader(open(path / part / 'metadata.csv')))
        assert len(table) == n and not verify_images(path / part / f'{r["Id"]}.jpg' for r in table)
        rows |= {f'{part}/{r.pop("Id")}.jpg': {k for k, v in r.items() if v == '1'} for r in table}
    assert {len(o) for o in rows.values()} >= {1, 2, 3}
    for f, true in json.loads((path / '.manifest.json').read_text())['mislabelled'].items():
        assert len(rows[f] ^ set(true)) == 1 and f.startswith('train')


def test_unknown_set_and_home(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='pictures'):
        sample_data('picures', home=tmp_path)
    monkeypatch.setenv('VISLEARN_HOME', str(tmp_path / 'h'))
    assert vislearn_home() == tmp_path / 'h'
    assert sample_data(n_per_class=1, size=32).is_relative_to(tmp_path / 'h' / 'samples')


def test_two_processes_and_a_killed_one_make_one_set(tmp_path):
    code = f"from vislearn.collect.samples import sample_data; print('go', flush=True); sample_data(n_per_class=%d, size=64, home={str(tmp_path)!r})"

    def start(n):
        return subprocess.Popen([sys.executable, '-c', code % n], stdout=subprocess.PIPE)

    p = start(200)
    p.stdout.readline()
    while not [*tmp_path.glob('.drawing-*/*')]:
        assert p.poll() is None
        time.sleep(0.001)
    p.kill()
    p.wait()
    p.stdout.close()
    assert not [o for o in tmp_path.iterdir() if not o.name.startswith('.')]  # nobody finds half a set
    ps = [start(4) for _ in range(2)]
    for p in ps:
        assert p.wait(60) == 0
        p.stdout.close()
    assert [o.name for o in tmp_path.iterdir() if not o.name.startswith('.')] == ['pictures-4x64-0-v1']


def test_resizing_keeps_small_ones_and_leaves_out_broken_ones(tmp_path):
    src = tmp_path / 'a'
    src.mkdir()
    for name, data in (
        ('big.jpg', picture(0, size=(400, 200))),
        ('small.png', picture(1, 'PNG')),
        ('cut.jpg', PICS[0][:200]),
    ):
        (src / name).write_bytes(data)
    exif = Image.Exif()
    exif[274] = 6
    Image.new('RGB', (300, 100)).save(src / 'lying.jpg', exif=exif)
    before = (src / 'small.png').read_bytes()
    out = collect.resize_images(src, max_size=100, dest=src)  # in place, as in fastai's course
    assert [f.name for f in out] == ['big.jpg', 'lying.jpg', 'small.png'] and (src / 'small.png').read_bytes() == before
    assert (
        Image.open(src / 'big.jpg').size == (100, 50)
        and Image.open(src / 'lying.jpg').size[1] == 100
        and (src / 'cut.jpg').read_bytes() == PICS[0][:200]
    )
    assert {o.name for o in src.iterdir()} == {'big.jpg', 'small.png', 'cut.jpg', 'lying.jpg'}
