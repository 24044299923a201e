"""Files that a folder of pictures may hold: some 190 kinds, each with the pixels it must give, or the reason it must be refused with.

The pixels come from formulas here, not from the code under test: `picture()` is a known array, and what is done to it in a file (turned, deepened,
made transparent, inverted) is done to the array with numpy.
"""

import base64
import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ARITHMETIC = base64.b64decode(
    '/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoKCgoKBggLDAsKDAkKCgr/2wBDAQICAgICAgUDAwUKBwYHCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgr/yQARCAAwAEADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AO7hAATQiMDB+zzeJZStsn3h+pQ2WeAVBFJDPQH1AlhSIf3RzuGbTSid3cytsFCPQIqgd2RB41k9NNlakvfSGIqe9vmi4co3hlULCWtD5ETFhndkI3mbGHR/m/GFTqs+sIT7goHs76XgXDij/wDLyaotrwlXpWBI0GJ8ErfbH3itBpXSkSufCj6t64BhQRdkUu82eQr6MSqEHOYxvFiFR5r1U9FADOpnwv3FBIEEKJVm3rrhf2ZNM8uCQye7+Qbif+j6QkDeduNCcs1A9MIBE34uyowTuQxioRju8yJauv8Az2y+TcCArU+FN3kfVdVy4upa+FoxOKO18rf4MJO5AJ6jbD+jMyQtqeZMJzYcDWDySHkDRFnyEt6uh02UMPAnvHvZsEaWk4EkCQXd2qo6Ed64vX4mEmvk/9k='
)


@dataclass
class Kind:
    "One kind of file, and what must come of it."

    id: str
    name: str  # of the file
    make: bytes | Callable[[Path], None]  # its content, or what makes it
    pixels: np.ndarray | None = None  # (h,w,3) uint8 that it must give
    tol: float = 0  # mean distance allowed, grey levels; four times that anywhere
    why: str = ''  # pattern of the reason it must be refused with
    kind: str = ''  # the `ImageError.kind` of that
    listed: bool = True  # does get_image_files find it?

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        path.write_bytes(self.make) if isinstance(self.make, bytes) else self.make(path)
        return path


def picture(h: int = 48, w: int = 64) -> np.ndarray:  # (h,w,3) uint8
    "Red grows to the right, green downwards, blue to the upper left: every turn and every mixed-up channel shows."
    y, x = np.mgrid[:h, :w]
    return (
        np.stack([x * 255 / max(1, w - 1), y * 255 / max(1, h - 1), 255 - (x + y) * 255 / max(1, w + h - 2)], -1)
        .round()
        .astype(np.uint8)
    )


RGB = picture()
GREY = RGB[..., 0]
H, W = GREY.shape
DEEP = np.linspace(0, 65535, H * W).reshape(H, W).round().astype(np.uint16)  # 16-bit greys


def three(a: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(a)[..., None], 3, -1)


def deep8(a: np.ndarray, white: float = 65535) -> np.ndarray:
    return three((a / white * 255).round().astype(np.uint8))


def luma(a: np.ndarray) -> np.ndarray:
    return (a @ [0.299, 0.587, 0.114]).round().astype(np.uint8)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    a = alpha[..., None] / 255
    return (rgb * a + 255 * (1 - a)).round().astype(np.uint8)


def enc(a: np.ndarray | Image.Image, fmt: str, mode: str | None = None, **kw) -> bytes:
    "An array or Pillow picture, encoded."
    im = a if isinstance(a, Image.Image) else Image.fromarray(a)
    f = io.BytesIO()
    (im if mode is None else im.convert(mode)).save(f, fmt, **kw)
    return f.getvalue()


def exif(turn: int) -> Image.Exif:
    e = Image.Exif()
    e[0x0112] = turn
    return e


# what a viewer does for each EXIF orientation
TURNED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


def chunk(name: bytes, data: bytes) -> bytes:
    "One chunk of a PNG."
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def png(w: int, h: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    "A PNG from raw rows (each `depth` bits a sample, big endian); `extra` chunks come before the pixels."
    n = len(rows) // h if h and rows else 0
    raw = b''.join(b'\0' + rows[i * n : (i + 1) * n] for i in range(h)) if rows else b''
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, depth, colour, 0, 0, 0))
        + b''.join(extra)
        + chunk(b'IDAT', zlib.compress(raw))
        + chunk(b'IEND', b'')
    )


def packed(a: np.ndarray, bits: int) -> bytes:  # rows padded to bytes
    "Values (h,w) written with `bits` each."
    b = ((a[..., None].astype(np.uint32) >> np.arange(bits - 1, -1, -1)) & 1).reshape(len(a), -1).astype(np.uint8)
    return np.packbits(b, axis=1).tobytes()


def tiff(
    data: bytes, w: int, h: int, bits: int | list[int], photometric: int = 1, fmt: int = 1, end: str = '<', **tags: int
) -> bytes:
    "A TIFF of one uncompressed strip."
    bits = bits if isinstance(bits, list) else [bits]
    entries = {
        256: (4, w),
        257: (4, h),
        259: (3, 1),
        262: (3, photometric),
        273: (4, 8),
        277: (3, len(bits)),
        278: (4, h),
        279: (4, len(data)),
        339: (3, fmt),
    }
    entries |= {int(k[1:]): (3, v) for k, v in tags.items()}
    tail, at = b'', 8 + len(data) + len(data) % 2
    if len(bits) == 1:
        entries[258] = (3, bits[0])
    ifd = []
    size = 2 + 12 * (len(entries) + (len(bits) > 1)) + 4
    if len(bits) > 1:
        tail = struct.pack(f'{end}{len(bits)}H', *bits)
        ifd.append((258, struct.pack(f'{end}HHII', 258, 3, len(bits), at + size)))
    for k, (t, v) in entries.items():
        ifd.append(
            (
                k,
                struct.pack(f'{end}HHI', k, t, 1)
                + (struct.pack(f'{end}HH', v, 0) if t == 3 else struct.pack(f'{end}I', v)),
            )
        )
    ifd.sort()
    return (
        (b'II*\0' if end == '<' else b'MM\0*')
        + struct.pack(f'{end}I', at)
        + data
        + b'\0' * (len(data) % 2)
        + struct.pack(f'{end}H', len(ifd))
        + b''.join(o for _, o in ifd)
        + b'\0' * 4
        + tail
    )


def grey_tiff(a: np.ndarray, **kw) -> bytes:
    "A TIFF of an array's own type."
    end = kw.get('end', '<')
    fmt = {'u': 1, 'i': 2, 'f': 3, 'c': 6}[a.dtype.kind]
    return tiff(
        a.astype(a.dtype.newbyteorder(end)).tobytes(), a.shape[1], a.shape[0], a.dtype.itemsize * 8, fmt=fmt, **kw
    )


def bmp(
    rows: bytes,
    w: int,
    h: int,
    bits: int,
    palette: bytes = b'',
    compression: int = 0,
    masks: bytes = b'',
    head: int = 40,
) -> bytes:
    "A BMP; a negative height is stored from the top."
    info = (
        struct.pack('<IiiHHIIiiII', head, w, h, 1, bits, compression, len(rows), 2835, 2835, len(palette) // 4, 0)
        + masks
    )
    at = 14 + len(info) + len(palette)
    return b'BM' + struct.pack('<IHHI', at + len(rows), 0, 0, at) + info + palette + rows


def bmp_rows(a: np.ndarray, down: bool = False) -> bytes:
    "Rows (h,n) of bytes, from the bottom up, each padded to four bytes."
    a = a.reshape(len(a), -1).view(np.uint8)
    a = np.pad(a, ((0, 0), (0, -a.shape[1] % 4)))
    return (a if down else a[::-1]).tobytes()


def rle8(a: np.ndarray) -> bytes:
    "Runs of one, which is legal."
    return b''.join(b''.join(bytes([1, v]) for v in row) + b'\0\0' for row in a[::-1]) + b'\0\1'


def ycck() -> bytes:
    """A JPEG of YCCK channels: what Adobe's programs write for print. Pillow writes CMYK, inverted; the colours and
    the marker are changed here.
    """
    ycc = np.asarray(Image.fromarray(255 - RGB).convert('YCbCr'))  # of the inks cyan, magenta and yellow
    data = enc(
        Image.frombytes('CMYK', (W, H), (255 - np.concatenate([ycc, np.full((H, W, 1), 255, np.uint8)], -1)).tobytes()),
        'JPEG',
        quality=98,
        subsampling=0,
    )
    i = data.index(b'Adobe')
    return data[: i + 11] + b'\x02' + data[i + 12 :]


def with_size(data: bytes, w: int, h: int) -> bytes:
    "A JPEG that announces another size."
    i = next(i for i in range(2, len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
    return data[: i + 5] + struct.pack('>HH', h, w) + data[i + 9 :]


def scan_bomb() -> bytes:
    "A progressive JPEG that announces 48 million pixels and goes over them 400 times."
    data = with_size(enc(RGB, 'JPEG', progressive=True), 8000, 6000)
    i = data.rindex(b'\xff\xda')
    return data[:i] + (data[i:-2] + bytes(200)) * 400 + data[-2:]


def holed(data: bytes) -> bytes:
    """A JPEG with a piece of its pixels missing. (Zeros instead of them would not do: they are valid code, and nobody
    could tell.)
    """
    return data[: len(data) // 2] + data[len(data) * 3 // 4 :]


def mpo() -> bytes:
    f = io.BytesIO()
    Image.fromarray(RGB).save(f, 'MPO', save_all=True, append_images=[Image.fromarray(255 - RGB)], quality=95)
    return f.getvalue()


def frames(fmt: str, **kw) -> bytes:
    "Two frames, the second another picture."
    f = io.BytesIO()
    Image.fromarray(RGB).save(f, fmt, save_all=True, append_images=[Image.fromarray(255 - RGB)], **kw)
    return f.getvalue()


def zipped() -> bytes:
    f = io.BytesIO()
    with zipfile.ZipFile(f, 'w') as z:
        z.writestr('a.txt', 'x' * 200)
    return f.getvalue()


def turned_kinds() -> list[Kind]:
    "EXIF orientations, good and bad."

    def jpeg(**kw):
        return enc(RGB, 'JPEG', quality=95, **kw)

    res = [Kind(f'jpeg turned {o}', f'turned{o}.jpg', jpeg(exif=exif(o)), TURNED[o](RGB), 3) for o in TURNED]
    res += [
        Kind(
            f'jpeg grey turned {o}',
            f'greyturned{o}.jpg',
            enc(GREY, 'JPEG', quality=95, exif=exif(o)),
            three(TURNED[o](GREY[..., None])[..., 0]),
            3,
        )
        for o in (3, 5, 8)
    ]
    res += [Kind(f'jpeg orientation {o} means nothing', f'odd{o}.jpg', jpeg(exif=exif(o)), RGB, 3) for o in (0, 9, 255)]
    res += [
        Kind(f'{fmt} turned 6', f'turned.{fmt}', enc(RGB, fmt, exif=exif(6), **kw), TURNED[6](RGB), tol)
        for fmt, kw, tol in [
            ('png', {}, 0),
            ('webp', dict(lossless=True), 0),
            ('avif', dict(quality=95), 4),
            ('tiff', {}, 0),
        ]
    ]
    broken = jpeg(exif=exif(6))
    i = broken.index(b'Exif\0\0')
    word = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0'
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="3"/></rdf:RDF></x:xmpmeta>'
    late = png(W, H, 8, 2, RGB.tobytes())[:-12] + chunk(b'eXIf', exif(8).tobytes()[6:]) + chunk(b'IEND', b'')
    deep = Image.fromarray(DEEP)
    return res + [
        Kind(
            'jpeg with a damaged EXIF block', 'exifjunk.jpg', broken[: i + 6] + b'\x99' * 20 + broken[i + 26 :], RGB, 3
        ),
        Kind('jpeg with a cut EXIF block', 'exifcut.jpg', jpeg(exif=b'Exif\0\0MM\0*\0\0\0\x08\0\x40\x01\x12'), RGB, 3),
        Kind('jpeg orientation is a word', 'exifword.jpg', jpeg(exif=word), RGB, 3),
        Kind(
            'png turned in XMP',
            'xmp.png',
            png(W, H, 8, 2, RGB.tobytes(), chunk(b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + xmp)),
            TURNED[3](RGB),
        ),
        Kind('png turned after its pixels', 'late.png', late, TURNED[8](RGB)),
        Kind('16-bit png turned', 'deepturned.png', enc(deep, 'PNG', exif=exif(6)), TURNED[6](deep8(DEEP))),
    ]


def deep_kinds() -> list[Kind]:
    "More than 8 bits."
    f32 = (DEEP / 65535).astype(np.float32)
    six = (
        (RGB.astype(np.int32) * 257 + np.arange(W)[:, None] % 7).clip(0, 65535).astype(np.uint16)
    )  # not just the bytes doubled

    def be(a):
        return a.astype('>u2').tobytes()

    alpha = DEEP
    signed = (DEEP >> 1).astype(np.int16)
    clear = np.where(DEEP == DEEP[5, 7], 65535, DEEP)
    key = tuple(int(v) for v in six[10, 20])
    keyed = np.where(((six >> 8) == (np.array(key) >> 8)).all(-1)[..., None], 255, RGB)

    def ok(id, name, data, px, tol=0):
        return Kind(id, name, data, px, tol)

    def no(id, name, data, why):
        return Kind(id, name, data, why=why, kind='values')

    return [
        ok('png 16-bit grey', 'd1.png', enc(DEEP, 'PNG'), deep8(DEEP)),
        ok(
            'png 16-bit grey, one value transparent',
            'd2.png',
            png(W, H, 16, 0, be(DEEP), chunk(b'tRNS', struct.pack('>H', int(DEEP[5, 7])))),
            deep8(clear),
        ),
        ok(
            'png 16-bit grey and alpha',
            'd3.png',
            png(W, H, 16, 4, be(np.stack([DEEP, alpha], -1))),
            over_white(deep8(DEEP), alpha / 257),
            1,
        ),
        ok('png 16-bit rgb', 'd4.png', png(W, H, 16, 2, be(six)), RGB, 1),
        ok(
            'png 16-bit rgb, one colour transparent',
            'd5.png',
            png(W, H, 16, 2, be(six), chunk(b'tRNS', struct.pack('>HHH', *key))),
            keyed,
            1,
        ),
        ok(
            'png 16-bit rgba',
            'd6.png',
            png(W, H, 16, 6, be(np.concatenate([six, alpha[..., None]], -1))),
            over_white(RGB, alpha / 257),
            1,
        ),
        ok('tiff 16-bit little endian', 'd7.tif', grey_tiff(DEEP), deep8(DEEP)),
        ok('tiff 16-bit big endian', 'd8.tif', grey_tiff(DEEP, end='>'), deep8(DEEP)),
        ok('tiff 16-bit, zero is white', 'd9.tif', grey_tiff(65535 - DEEP, photometric=0), deep8(DEEP)),
        ok('tiff 16-bit compressed', 'd10.tif', enc(DEEP, 'TIFF', compression='tiff_lzw'), deep8(DEEP)),
        ok('tiff 12-bit packed', 'd11.tif', tiff(packed(DEEP >> 4, 12), W, H, 12), deep8(DEEP >> 4, 4095)),
        ok('tiff 12 bits in 16', 'd12.tif', grey_tiff(DEEP >> 4), deep8(DEEP >> 4)),
        ok('tiff int16', 'd13.tif', grey_tiff(signed), deep8(signed, 32767)),
        ok('tiff int32 of 16 bits', 'd14.tif', grey_tiff(DEEP.astype(np.int32)), deep8(DEEP)),
        ok('tiff uint32 of 16 bits', 'd15.tif', grey_tiff(DEEP.astype(np.uint32)), deep8(DEEP)),
        ok('tiff int32 of 8 bits', 'd16.tif', grey_tiff(GREY.astype(np.int32)), three(GREY)),
        ok('tiff float 0..1', 'd17.tif', grey_tiff(f32), deep8(f32, 1)),
        ok('tiff float 0..1 big endian', 'd18.tif', grey_tiff(f32, end='>'), deep8(f32, 1)),
        ok('tiff float, zero is white', 'd19.tif', grey_tiff(1 - f32, photometric=0), deep8(f32, 1), 1),
        ok('tiff float, whole numbers to 255', 'd20.tif', grey_tiff(GREY.astype(np.float32)), three(GREY)),
        ok('tiff float, whole numbers to 65535', 'd21.tif', grey_tiff(DEEP.astype(np.float32)), deep8(DEEP)),
        ok('tiff 16-bit rgb', 'd22.tif', tiff(six.tobytes(), W, H, [16] * 3, 2), RGB, 1),
        ok('pgm 16-bit', 'd23.pgm', b'P5 %d %d 65535\n' % (W, H) + be(DEEP), deep8(DEEP)),
        ok('pgm 16-bit, all dark', 'd24.pgm', b'P5 %d %d 65535\n' % (W, H) + be(DEEP // 300), deep8(DEEP // 300)),
        ok(
            'pgm to 1000',
            'd25.pgm',
            b'P5 %d %d 1000\n' % (W, H) + be((DEEP / 65.535).astype(np.uint16)),
            deep8((DEEP / 65.535).astype(np.uint16), 1000),
            1,
        ),
        ok('ppm 16-bit', 'd26.ppm', b'P6 %d %d 65535\n' % (W, H) + be(six), RGB, 1),
        ok('sgi 16-bit', 'd27.sgi', enc(RGB, 'SGI', bpc=2), RGB),
        ok('jpeg2000 16-bit grey', 'd28.jp2', enc(DEEP, 'JPEG2000'), deep8(DEEP), 1),
        no('tiff float 0..3.7', 'd30.tif', grey_tiff(f32 * 3.7), 'values reach from 0 to 3.7'),
        no('tiff float below 0', 'd31.tif', grey_tiff(f32 - 0.5), 'values reach from -0.5'),
        no(
            'tiff float with NaN',
            'd32.tif',
            grey_tiff(np.where(DEEP == 0, np.nan, f32).astype(np.float32)),
            'not finite',
        ),
        no(
            'tiff float with infinity',
            'd33.tif',
            grey_tiff(np.where(DEEP == 0, np.inf, f32).astype(np.float32)),
            'not finite',
        ),
        no(
            'tiff int32 of 32 bits',
            'd34.tif',
            grey_tiff((DEEP.astype(np.int64) * 32767).astype(np.int32)),
            'values reach',
        ),
        no(
            'tiff int16 below 0',
            'd35.tif',
            grey_tiff((signed.astype(np.int32) - 1000).astype(np.int16)),
            'values reach from -1000',
        ),
        Kind(
            'tiff float rgb',
            'd36.tif',
            tiff(np.repeat(f32[..., None], 3, -1).tobytes(), W, H, [32] * 3, 2, 3),
            why='TIFF',
            kind='damaged',
        ),
        Kind('tiff complex', 'd37.tif', grey_tiff(f32.astype(np.complex64)), why='TIFF', kind='damaged'),
    ]


def clear_kinds() -> list[Kind]:
    "Transparency, with something else hidden beneath."
    y, x = np.mgrid[:H, :W]
    alpha = (x * 4).clip(0, 255).astype(np.uint8)
    rgba = np.concatenate([RGB, alpha[..., None]], -1)
    hard = np.where(x > 20, 255, 0).astype(np.uint8)
    hard_rgba = np.concatenate([RGB, hard[..., None]], -1)
    la = np.stack([GREY, alpha], -1)
    soft, sharp = over_white(RGB, alpha), over_white(RGB, hard)
    pal = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 77)], -1).astype(np.uint8)
    index = (x + 4 * y).astype(np.uint8)
    key = index == 30
    pre = (RGB * (alpha[..., None] / 255)).round().astype(np.uint8)

    def p8(*extra):
        return png(W, H, 8, 3, index.tobytes(), chunk(b'PLTE', pal.tobytes()), *extra)

    gif = Image.fromarray(index)
    gif.putpalette(pal.tobytes())
    coloured = pal[index]
    return [
        Kind(id, name, data, px, tol)
        for id, name, data, px, *t in [
            ('png rgba', 'a1.png', enc(rgba, 'PNG'), soft, 1),
            ('png rgba, one step', 'a2.png', enc(hard_rgba, 'PNG'), sharp),
            (
                'png grey and alpha',
                'a3.png',
                enc(Image.frombytes('LA', (W, H), la.tobytes()), 'PNG'),
                over_white(three(GREY), alpha),
                1,
            ),
            (
                'png palette, one colour transparent',
                'a4.png',
                p8(chunk(b'tRNS', bytes(255 if i != 30 else 0 for i in range(256)))),
                np.where(key[..., None], 255, coloured),
            ),
            (
                'png palette with degrees of transparency',
                'a5.png',
                p8(chunk(b'tRNS', bytes(range(256)))),
                over_white(coloured, index),
                1,
            ),
            (
                'png grey, one value transparent',
                'a6.png',
                png(W, H, 8, 0, GREY.tobytes(), chunk(b'tRNS', struct.pack('>H', int(GREY[0, 9])))),
                three(np.where(GREY == GREY[0, 9], 255, GREY)),
            ),
            (
                'png rgb, one colour transparent',
                'a7.png',
                png(W, H, 8, 2, RGB.tobytes(), chunk(b'tRNS', struct.pack('>HHH', *map(int, RGB[5, 5])))),
                np.where((RGB == RGB[5, 5]).all(-1)[..., None], 255, RGB),
            ),
            (
                'png 1-bit, black transparent',
                'a8.png',
                png(W, H, 1, 0, packed(x % 2, 1), chunk(b'tRNS', b'\0\0')),
                np.full((H, W, 3), 255, np.uint8),
            ),
            ('webp rgba lossless', 'a9.webp', enc(rgba, 'WEBP', lossless=True, exact=True), soft, 1),
            ('webp rgba', 'a10.webp', enc(rgba, 'WEBP', quality=95), soft, 4),
            ('tiff rgba', 'a11.tif', enc(rgba, 'TIFF'), soft, 1),
            (
                'tiff premultiplied',
                'a12.tif',
                tiff(np.concatenate([pre, alpha[..., None]], -1).tobytes(), W, H, [8] * 4, 2, t338=1),
                soft,
                3,
            ),
            (
                'gif, one colour transparent',
                'a13.gif',
                enc(gif, 'GIF', transparency=30),
                np.where(key[..., None], 255, coloured),
            ),
            ('ico rgba', 'a14.ico', enc(hard_rgba, 'ICO', sizes=[(W, H)]), sharp),
            ('tga rgba', 'a15.tga', enc(rgba, 'TGA'), soft, 1),
            (
                'bmp rgba',
                'a16.bmp',
                bmp(
                    bmp_rows(rgba[..., [2, 1, 0, 3]].copy()),
                    W,
                    H,
                    32,
                    compression=3,
                    head=108,
                    masks=struct.pack('<IIII', 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b'BGRs' + bytes(48),
                ),
                soft,
                1,
            ),
            ('jpeg2000 rgba', 'a17.jp2', enc(rgba, 'JPEG2000'), soft, 1),
            ('avif rgba', 'a18.avif', enc(rgba, 'AVIF', quality=98), soft, 4),
            ('sgi rgba', 'a19.sgi', enc(rgba, 'SGI'), soft, 1),
            ('qoi rgba', 'a20.qoi', enc(rgba, 'QOI'), soft, 1),
            (
                'png 16 colours and alpha',
                'a21.png',
                png(W, H, 4, 3, packed(index % 16, 4), chunk(b'PLTE', pal[:16].tobytes()), chunk(b'tRNS', b'\0')),
                np.where((index % 16 == 0)[..., None], 255, pal[index % 16]),
            ),
        ]
        for tol in (t or [0])
    ]


def lab_kind() -> Kind:
    """A Lab TIFF of greys, whose sRGB is known without a colour library: neutral Lab is neutral sRGB, and L* is a
    known curve.
    """
    L = np.linspace(0, 100, W)
    y = np.where(L > 8, ((L + 16) / 116) ** 3, L / 903.3)
    v = (np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055) * 255).round().astype(np.uint8)
    lab = np.stack([np.tile((L * 2.55).round(), (H, 1)), np.zeros((H, W)), np.zeros((H, W))], -1).astype(np.uint8)
    return Kind('tiff lab', 'c11.tif', tiff(lab.tobytes(), W, H, [8] * 3, 8), three(np.tile(v, (H, 1))), 2)


def colour_kinds() -> list[Kind]:
    "How colours are coded, and how they are compressed."
    y, x = np.mgrid[:H, :W]
    ink = np.full((H, W, 1), 40, np.uint8)
    cmyk = np.concatenate([255 - RGB, ink], -1)
    printed = (RGB * (215 / 255)).round().astype(np.uint8)  # what ink of 40 leaves of it
    cim = Image.frombytes('CMYK', (W, H), cmyk.tobytes())
    bits = ((x // 8 + y // 8) % 2).astype(np.uint8)
    pal = np.stack([np.arange(256)[::-1], np.arange(256), np.arange(256) * 7 % 256], -1).astype(np.uint8)
    index = (x + 4 * y).astype(np.uint8)
    p = Image.fromarray(index)
    p.putpalette(pal.tobytes())
    one = Image.fromarray(bits * 255).convert('1')
    ycc = Image.fromarray(RGB).convert('YCbCr')

    def plte(n):
        return chunk(b'PLTE', pal[:n].tobytes())

    row = [
        ('jpeg cmyk', 'c1.jpg', enc(cim, 'JPEG', quality=98, subsampling=0), printed, 4),
        ('jpeg ycck', 'c2.jpg', ycck(), RGB, 4),
        ('jpeg of plain rgb', 'c3.jpg', enc(RGB, 'JPEG', quality=98, keep_rgb=True), RGB, 3),
        ('jpeg grey', 'c4.jpg', enc(GREY, 'JPEG', quality=95), three(GREY), 2),
        ('jpeg progressive', 'c5.jpg', enc(RGB, 'JPEG', quality=95, progressive=True), RGB, 3),
        ('jpeg arithmetic', 'c6.jpg', ARITHMETIC, RGB, 3),
        ('jpeg 4:4:4', 'c7.jpg', enc(RGB, 'JPEG', quality=95, subsampling=0), RGB, 3),
        ('jpeg 4:2:2', 'c8.jpg', enc(RGB, 'JPEG', quality=95, subsampling=1), RGB, 3),
        ('jpeg with restarts', 'c9.jpg', enc(RGB, 'JPEG', quality=95, restart_marker_blocks=2), RGB, 3),
        ('tiff cmyk', 'c10.tif', enc(cim, 'TIFF'), printed, 1),
        ('tiff jpeg ycbcr', 'c12.tif', enc(ycc, 'TIFF', compression='jpeg', quality=98), RGB, 4),
        ('png palette 8', 'c13.png', enc(p, 'PNG'), pal[index]),
        ('png palette 4', 'c14.png', png(W, H, 4, 3, packed(index % 16, 4), plte(16)), pal[index % 16]),
        ('png palette 2', 'c15.png', png(W, H, 2, 3, packed(index % 4, 2), plte(4)), pal[index % 4]),
        ('png palette 1', 'c16.png', png(W, H, 1, 3, packed(bits, 1), plte(2)), pal[bits]),
        ('png 1-bit', 'c17.png', enc(one, 'PNG'), three(bits * 255)),
        ('png 2-bit grey', 'c18.png', png(W, H, 2, 0, packed(index % 4, 2)), three(index % 4 * 85)),
        ('png 4-bit grey', 'c19.png', png(W, H, 4, 0, packed(index % 16, 4)), three(index % 16 * 17)),
        ('png grey', 'c20.png', enc(GREY, 'PNG'), three(GREY)),
        ('png rgb', 'c21.png', enc(RGB, 'PNG'), RGB),
        *(
            (f'tiff {c}', f'c22{c}.tif', enc(RGB, 'TIFF', compression=c), RGB)
            for c in ('raw', 'tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'zstd')
        ),
        ('tiff group 4', 'c23.tif', enc(one, 'TIFF', compression='group4'), three(bits * 255)),
        ('tiff 1-bit, zero is white', 'c24.tif', tiff(packed(1 - bits, 1), W, H, 1, 0), three(bits * 255)),
        ('tiff 8-bit, zero is white', 'c25.tif', tiff((255 - GREY).tobytes(), W, H, 8, 0), three(GREY)),
        ('tiff palette', 'c26.tif', enc(p, 'TIFF'), pal[index]),
        ('tiff bigtiff', 'c27.tif', enc(RGB, 'TIFF', big_tiff=True), RGB),
        ('tiff in planes', 'c28.tif', enc(RGB, 'TIFF', tiffinfo={284: 1}), RGB),
        ('webp', 'c30.webp', enc(RGB, 'WEBP', quality=95), RGB, 4),
        ('webp lossless', 'c31.webp', enc(RGB, 'WEBP', lossless=True), RGB),
        ('avif', 'c32.avif', enc(RGB, 'AVIF', quality=95), RGB, 4),
        ('jpeg2000', 'c33.jp2', enc(RGB, 'JPEG2000'), RGB),
        ('jpeg2000 code stream', 'c34.j2k', enc(RGB, 'JPEG2000', no_jp2=True), RGB),
        (
            'jpeg2000 lossy',
            'c35.jp2',
            enc(RGB, 'JPEG2000', irreversible=True, quality_mode='dB', quality_layers=[45]),
            RGB,
            4,
        ),
        ('bmp 24', 'c36.bmp', enc(RGB, 'BMP'), RGB),
        ('bmp 8 grey', 'c37.bmp', enc(GREY, 'BMP'), three(GREY)),
        ('bmp 1', 'c38.bmp', enc(one, 'BMP'), three(bits * 255)),
        (
            'bmp 4',
            'c39.bmp',
            bmp(
                bmp_rows(np.frombuffer(packed(index % 16, 4), np.uint8).reshape(H, -1)),
                W,
                H,
                4,
                b''.join(bytes([*c[::-1], 0]) for c in pal[:16]),
            ),
            pal[index % 16],
        ),
        (
            'bmp 8 in runs',
            'c40.bmp',
            bmp(rle8(index), W, H, 8, b''.join(bytes([*c[::-1], 0]) for c in pal), 1),
            pal[index],
        ),
        ('bmp from the top', 'c41.bmp', bmp(bmp_rows(RGB[..., ::-1].copy(), True), W, -H, 24), RGB),
        (
            'bmp 16',
            'c42.bmp',
            bmp(
                bmp_rows(
                    (
                        (RGB[..., 0].astype(np.uint16) >> 3 << 10)
                        | (RGB[..., 1].astype(np.uint16) >> 3 << 5)
                        | (RGB[..., 2] >> 3)
                    ).astype('<u2')
                ),
                W,
                H,
                16,
            ),
            RGB,
            5,
        ),
        (
            'bmp 32 without alpha',
            'c43.bmp',
            bmp(bmp_rows(np.concatenate([RGB[..., ::-1], np.zeros((H, W, 1), np.uint8)], -1)), W, H, 32),
            RGB,
        ),
        ('dib', 'c44.dib', enc(RGB, 'DIB'), RGB),
        ('pcx', 'c45.pcx', enc(RGB, 'PCX'), RGB),
        ('sgi', 'c46.sgi', enc(RGB, 'SGI'), RGB),
        ('tga', 'c47.tga', enc(RGB, 'TGA'), RGB),
        ('tga in runs', 'c48.tga', enc(RGB, 'TGA', compression='tga_rle'), RGB),
        ('qoi', 'c49.qoi', enc(RGB, 'QOI'), RGB),
        ('gif', 'c50.gif', enc(p, 'GIF'), pal[index]),
        (
            'pbm text',
            'c51.pbm',
            b'P1\n# a comment\n%d %d\n' % (W, H) + b'\n'.join(b' '.join(b'%d' % v for v in r) for r in 1 - bits),
            three(bits * 255),
        ),
        (
            'pgm text',
            'c52.pgm',
            b'P2 %d %d 255\n' % (W, H) + b'\n'.join(b' '.join(b'%d' % v for v in r) for r in GREY),
            three(GREY),
        ),
        (
            'ppm text',
            'c53.ppm',
            b'P3 %d %d 255\n' % (W, H) + b'\n'.join(b' '.join(b'%d' % v for v in r) for r in RGB.reshape(H, -1)),
            RGB,
        ),
        ('pbm', 'c54.pbm', b'P4 %d %d\n' % (W, H) + packed(1 - bits, 1), three(bits * 255)),
        ('ppm', 'c55.ppm', enc(RGB, 'PPM'), RGB),
        ('png with a colour profile', 'c56.png', enc(RGB, 'PNG', icc_profile=b'\0' * 200), RGB),
    ]
    return [Kind(id, name, data, px, t[0] if t else 0) for id, name, data, px, *t in row] + [lab_kind()]


def odd_kinds() -> list[Kind]:
    "Good pictures in odd clothes: several pages, formal errors, extreme shapes, wrong and strange names."
    jpeg = enc(RGB, 'JPEG', quality=95)
    jfif = jpeg[:11] + b'\x07' + jpeg[12:]  # version 7 of JFIF
    shapes = [
        Kind(f'{h}x{w}', f'{h}x{w}.png', enc(picture(h, w), 'PNG'), picture(h, w))
        for h, w in ((1, 1), (1, 5000), (5000, 1), (2, 3))
    ]
    small = [
        Kind(
            f'jpeg {h}x{w}',
            f'{h}x{w}.jpg',
            enc(np.full((h, w, 3), 90, np.uint8), 'JPEG'),
            np.full((h, w, 3), 90, np.uint8),
            1,
        )
        for h, w in ((1, 1), (1, 5000), (7, 3))
    ]
    gif = Image.fromarray(RGB).quantize(64, dither=Image.Dither.NONE)
    names = [
        'ü ñ 漢字.jpg',
        ' space .jpg',
        'new\nline.jpg',
        '-rf.jpg',
        '$(touch x);`ls`.jpg',
        '<img src=x onerror=alert(1)>.jpg',
        '[a]*?.jpg',
        'x' * 251 + '.jpg',
        'e\u0301.jpg',
        '\x1b[31mred\x07.jpg',
        'a\u202egpj.jpg',
        '"quoted",comma.jpg',
        '=1+1.jpg',
        os.fsdecode(b'latin\xe9.jpg'),
    ]
    return (
        shapes
        + small
        + [
            Kind('gif of two frames', 'o1.gif', frames('GIF'), np.asarray(gif.convert('RGB')), 12),
            Kind('webp of two frames', 'o2.webp', frames('WEBP', lossless=True), RGB),
            Kind('png of two frames', 'o3.png', frames('PNG'), RGB),
            Kind('tiff of two pages', 'o4.tif', frames('TIFF'), RGB),
            Kind('mpo', 'o5.mpo', mpo(), RGB, 3),
            Kind('mpo named jpg', 'o6.jpg', mpo(), RGB, 3),
            Kind('png named jpg', 'o7.jpg', enc(RGB, 'PNG'), RGB),
            Kind('jpeg named png', 'o8.png', jpeg, RGB, 3),
            Kind('tiff named jpg', 'o9.jpg', grey_tiff(DEEP), deep8(DEEP)),
            Kind('upper case suffix', 'O10.JPG', jpeg, RGB, 3),
            Kind('jfif suffix', 'o11.jfif', jpeg, RGB, 3),
            Kind('jpeg with text after its end', 'o12.jpg', jpeg + b'and more' * 100, RGB, 3),
            Kind('jpeg of an unknown JFIF version', 'o13.jpg', jfif, RGB, 3),
            Kind('jpeg with bytes before its end', 'o14.jpg', jpeg[:-2] + b'\x11' * 8 + jpeg[-2:], RGB, 3),
            Kind('jpeg with a comment of 60 kB', 'o15.jpg', enc(RGB, 'JPEG', quality=95, comment=b'x' * 60000), RGB, 3),
            Kind('two jpegs in one file', 'o16.jpg', jpeg * 2, RGB, 3),
            Kind('png with text after its end', 'o17.png', enc(RGB, 'PNG') + b'more' * 50, RGB),
            *(Kind(f'name {n!r}', n, jpeg, RGB, 3) for n in names),
        ]
    )


def broken_kinds() -> list[Kind]:
    "What is no picture, or no longer one."
    jpeg, prog, pn = enc(RGB, 'JPEG', quality=95), enc(RGB, 'JPEG', progressive=True, quality=95), enc(RGB, 'PNG')
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (H, W, 3), dtype=np.uint8)
    noisy = enc(np.asarray(Image.fromarray(noise).resize((400, 300))), 'JPEG', quality=90)
    crc = bytearray(pn)
    crc[-20] ^= 0xFF
    ihdr = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', W, H, 8, 2, 0, 0, 0))

    def part(b, s=0.6):
        return b[: int(len(b) * s)]

    html, bad, no = 'a web page', 'damaged', 'not a picture'
    twelve = bytearray(jpeg)
    i = twelve.index(b'\xff\xc0')
    twelve[i + 4] = 12
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n'
    return [
        Kind(id, name, data, why=why, kind=kind)
        for id, name, data, why, kind in [
            ('no bytes', 'b1.jpg', b'', 'empty', 'empty'),
            ('one byte', 'b2.jpg', b'\xff', 'no known', no),
            ('zeros', 'b3.jpg', bytes(5000), 'zeros', no),
            ('text', 'b4.jpg', b'this is not a picture at all, is it?\n' * 9, 'no known', no),
            ('html', 'b5.jpg', b'<!DOCTYPE html><html><body>Not Found</body></html>', html, no),
            ('html after blank lines', 'b6.png', b'\n\n  <HTML><head></head></HTML>', html, no),
            ('pdf', 'b7.jpg', b'%PDF-1.7\n' + bytes(99), 'PDF', no),
            ('svg', 'b8.jpg', b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="3"/></svg>', 'SVG', no),
            ('svg with an xml head', 'b9.jpg', b'<?xml version="1.0"?>\n<svg></svg>', 'SVG', no),
            ('zip', 'b10.jpg', zipped(), 'zip', no),
            ('mp4', 'b11.jpg', b'\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41' + bytes(500), 'film', no),
            ('pickle', 'b12.jpg', pickle.dumps({'a': 1}), 'pickle', no),
            ('json', 'b13.jpg', b'{"error": "not found"}', 'no known', no),
            (
                'git-lfs pointer',
                'b14.jpg',
                b'version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n',
                'git lfs pull',
                no,
            ),
            ('gzip', 'b15.jpg', b'\x1f\x8b\x08' + bytes(50), 'gzip', no),
            ('hdf5', 'b16.jpg', b'\x89HDF\r\n\x1a\n' + bytes(90), 'HDF5', no),
            ('eps', 'b17.jpg', eps, 'PostScript', no),
            (
                'eps with a preview',
                'b18.tif',
                b'\xc5\xd0\xd3\xc6' + struct.pack('<IIIIIIH', 30, len(eps), 0, 0, 0, 0, 0xFFFF) + eps,
                'PostScript',
                no,
            ),
            ('photoshop', 'b19.jpg', b'8BPS\0\1' + bytes(90), 'Photoshop', no),
            ('heic', 'b20.heic', b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(500), 'pillow-heif', no),
            ('heic of brand mif1', 'b21.jpg', b'\0\0\0\x18ftypmif1\0\0\0\0mif1heic' + bytes(500), 'pillow-heif', no),
            ('jpeg head only', 'b22.jpg', jpeg[:20], 'JPEG', bad),
            ('jpeg cut', 'b23.jpg', part(jpeg), 'Premature end', bad),
            ('jpeg cut in its tables', 'b24.jpg', jpeg[:200], '', bad),
            ('jpeg without its end', 'b25.jpg', jpeg[:-2], 'Premature end', bad),
            ('progressive jpeg cut', 'b26.jpg', part(prog), 'Premature end|truncated', bad),
            (
                'cmyk jpeg cut',
                'b27.jpg',
                part(enc(Image.fromarray(RGB).convert('CMYK'), 'JPEG', quality=95)),
                'truncated',
                bad,
            ),
            ('jpeg with a hole', 'b28.jpg', holed(noisy), 'Corrupt JPEG', bad),
            ('jpeg of 12 bits', 'b29.jpg', bytes(twelve), '', bad),
            ('jpeg after junk', 'b30.jpg', b'junk' + jpeg, 'no known', no),
            ('jpeg of two signatures', 'b31.jpg', b'\xff\xd8\xff\xd9', '', bad),
            ('png cut', 'b32.png', part(pn), '', bad),
            ('png with a wrong checksum', 'b33.png', bytes(crc), '', bad),
            ('png without pixels', 'b34.png', ihdr + chunk(b'IEND', b''), '', bad),
            (
                'png of broken compression',
                'b35.png',
                ihdr + chunk(b'IDAT', b'\x78\x9cjunkjunk') + chunk(b'IEND', b''),
                '',
                bad,
            ),
            ('png head only', 'b36.png', pn[:8], '', bad),
            (
                'png with too few rows',
                'b37.png',
                ihdr + chunk(b'IDAT', zlib.compress(bytes(100))) + chunk(b'IEND', b''),
                '',
                bad,
            ),
            ('gif cut', 'b38.gif', part(enc(noise, 'GIF')), '', bad),
            ('gif without a frame', 'b39.gif', enc(noise, 'GIF')[:781] + b';', '', bad),
            ('webp cut', 'b40.webp', part(enc(RGB, 'WEBP', lossless=True)), '', bad),
            ('webp head only', 'b41.webp', enc(RGB, 'WEBP')[:16], '', bad),
            ('tiff cut', 'b42.tif', part(enc(RGB, 'TIFF')), '', bad),
            ('tiff head only', 'b43.tif', b'II*\0\x08\0\0\0', '', bad),
            ('tiff lzw cut', 'b44.tif', part(enc(noise, 'TIFF', compression='tiff_lzw'), 0.9), '', bad),
            ('tiff that points nowhere', 'b45.tif', b'II*\0\xff\xff\xff\x7f', '', bad),
            ('bmp cut', 'b46.bmp', part(enc(RGB, 'BMP')), '', bad),
            ('avif cut', 'b47.avif', part(enc(RGB, 'AVIF')), '', bad),
            ('jpeg2000 cut', 'b48.jp2', part(enc(noise, 'JPEG2000')), '', bad),
            ('ico without pictures', 'b49.ico', b'\0\0\1\0\0\0', '', bad),
            ('ppm cut', 'b50.ppm', part(enc(RGB, 'PPM')), '', bad),
            ('ppm of a silly size', 'b51.ppm', b'P6 -3 4 255\n' + bytes(99), '', bad),
            ('tga cut', 'b52.tga', part(enc(RGB, 'TGA')), '', bad),
            ('pcx cut', 'b53.pcx', part(enc(noise, 'PCX'), 0.5), '', bad),
            ('sgi cut', 'b54.sgi', part(enc(RGB, 'SGI')), '', bad),
            ('qoi cut', 'b55.qoi', part(enc(noise, 'QOI')), '', bad),
            ('a film in RIFF', 'b56.webp', b'RIFF\x24\0\0\0AVI LIST' + bytes(90), '', no),
        ]
    ]


def bomb_kinds() -> list[Kind]:
    "Small files that would fill the memory or take for ever."

    def grey(w, h):
        return png(w, h, 1, 0, b'')

    head = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', W, H, 8, 2, 0, 0, 0))
    zeros = zlib.compress(bytes(60_000_000), 9)
    big = 'too large'

    def sparse(path: Path):
        path.write_bytes(enc(RGB, 'JPEG'))
        os.truncate(path, 3_000_000_000)

    def film(path: Path):
        path.write_bytes(b'\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41')
        os.truncate(path, 390_000_000)

    return [
        Kind(id, name, data, why=why, kind=kind)
        for id, name, data, why, kind in [
            ('png of 400 million pixels', 'p1.png', grey(20000, 20000), '20000 x 20000', big),
            ('png of 170 million pixels', 'p2.png', grey(13000, 13077), 'pixels; the limit', big),
            ('png of 4 billion squared', 'p3.png', grey(2**31 - 1, 2**31 - 1), '', big),
            ('jpeg of 65500 squared', 'p4.jpg', with_size(enc(RGB, 'JPEG'), 65500, 65500), '65500 x 65500', big),
            (
                'gif of 65535 squared',
                'p5.gif',
                b'GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;',
                '65535 x 65535',
                big,
            ),
            ('tiff of 100000 squared', 'p6.tif', tiff(bytes(10), 100000, 100000, 8), '100000 x 100000', big),
            ('bmp of 100000 squared', 'p7.bmp', bmp(b'', 100000, 100000, 24), '100000 x 100000', big),
            ('ppm of 100000 squared', 'p8.ppm', b'P6 100000 100000 255\n', '100000', big),
            (
                'png with a text of 60 MB',
                'p9.png',
                head + chunk(b'zTXt', b'a\0\0' + zeros) + chunk(b'IEND', b''),
                '',
                'damaged',
            ),
            (
                'png with a profile of 60 MB',
                'p10.png',
                head + chunk(b'iCCP', b'a\0\0' + zeros) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''),
                '',
                'damaged',
            ),
            (
                'progressive jpeg of 49 million pixels without them',
                'p15.jpg',
                with_size(enc(RGB, 'JPEG', progressive=True), 7000, 7000),
                'only',
                'damaged',
            ),
            ('jpeg coded in 400 passes', 'p12.jpg', scan_bomb(), 'passes', big),
            ('a jpeg of 3 GB', 'p13.jpg', sparse, '3,000,000,000 bytes', big),
            ('a film of 390 MB', 'p14.jpg', film, 'film', 'not a picture'),
        ]
    ] + [
        Kind(
            'png of 24 million pixels',
            'p16.png',
            png(8000, 3000, 1, 0, b'\xaa' * (1000 * 3000)),
            three(np.tile(np.array([255, 0], np.uint8), (3000, 4000))),
        ),
        Kind(
            'png with 60 MB of pixels too many',
            'p11.png',
            head
            + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + r.tobytes() for r in RGB) + bytes(60_000_000), 9))
            + chunk(b'IEND', b''),
            RGB,
        ),
    ]


def place_kinds() -> list[Kind]:
    "What is wrong is not in the file but with it."
    jpeg = enc(RGB, 'JPEG', quality=95)

    def below(*parts: str) -> Callable[[Path], None]:
        def make(path: Path):
            at = path.parent.joinpath(*parts)
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(jpeg)

        return make

    def no_rights(path: Path):
        path.write_bytes(jpeg)
        path.chmod(0)

    res = [
        Kind(
            'folder named jpg',
            'f1.jpg',
            lambda p: p.mkdir(),
            why='is a folder',
            kind='unreadable',
            listed=False,
        ),
        Kind('link to itself', 'f2.jpg', lambda p: p.symlink_to(p.name), why='cannot be read', kind='unreadable'),
        Kind('link to nothing', 'f3.jpg', lambda p: p.symlink_to('gone.jpg'), why='does not exist', kind='missing'),
        Kind(
            'link to its own folder',
            'f4',
            lambda p: p.symlink_to(p.parent, target_is_directory=True),
            why='',
            kind='unreadable',
            listed=False,
        ),
        Kind('twin of a Mac', '__MACOSX', below('__MACOSX', 'x.jpg'), why='', kind='unreadable', listed=False),
        Kind('hidden', '.hidden.jpg', jpeg, RGB, 3, listed=False),
        Kind('no suffix', 'f5', jpeg, RGB, 3, listed=False),
        Kind('suffix of a URL', 'f6.jpg?w=300', jpeg, RGB, 3, listed=False),
    ]
    if hasattr(os, 'mkfifo'):
        res.append(
            Kind('pipe named jpg', 'f7.jpg', os.mkfifo, why='not an ordinary file', kind='unreadable', listed=False)
        )
    if hasattr(os, 'geteuid') and os.geteuid():
        res.append(Kind('no right to read', 'f8.jpg', no_rights, why='cannot be read', kind='unreadable'))
    return res


def kinds() -> list[Kind]:
    "All of them."
    return [
        *turned_kinds(),
        *deep_kinds(),
        *clear_kinds(),
        *colour_kinds(),
        *odd_kinds(),
        *broken_kinds(),
        *bomb_kinds(),
        *place_kinds(),
    ]


SEEDS = [
    'jpeg turned 6',
    'jpeg cmyk',
    'jpeg progressive',
    'jpeg grey',
    'mpo',
    'png rgb',
    'png palette 8',
    'png 16-bit rgb, one colour transparent',
    'png of two frames',
    'gif of two frames',
    'webp',
    'webp lossless',
    'webp of two frames',
    'tiff in planes',
    'tiff 16-bit compressed',
    'tiff tiff_lzw',
    'tiff tiff_adobe_deflate',
    'tiff packbits',
    'tiff group 4',
    'tiff jpeg ycbcr',
    'tiff float 0..1',
    'tiff palette',
    'bmp 8 in runs',
    'bmp 24',
    'jpeg2000',
    'jpeg2000 16-bit grey',
    'avif',
    'avif rgba',
    'ico rgba',
    'tga in runs',
    'pcx',
    'sgi 16-bit',
    'ppm',
    'pgm text',
    'qoi',
    'jpeg with a comment of 60 kB',
]


def mutant(seed: int, good: list[bytes]) -> bytes:
    "A good file with bytes flipped, set, cut out, repeated or taken from another; the same for the same seed."
    rng = np.random.default_rng(seed)
    data = bytearray(good[rng.integers(len(good))])
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        n = len(data)
        if n < 4:
            break
        i = int(n * rng.random() ** rng.choice([1, 3]))  # heads hold most of what can go wrong
        j = min(n, i + int(rng.choice([1, 4, 64, n // 3 + 1])))
        how = rng.integers(7)
        if how < 2:
            data[i] ^= 1 << int(rng.integers(8))
        elif how == 2:
            data[i : i + 4] = rng.choice(np.array([0, 1, 0x7F, 0x80, 0xFF], np.uint8), 4).tobytes()
        elif how == 3:
            del data[i:j]
        elif how == 4:
            data[i:i] = data[i:j]
        elif how == 5:
            other = good[rng.integers(len(good))]
            k = int(rng.integers(len(other)))
            data[i:j] = other[k : k + j - i]
        else:
            del data[max(i, 4) :]
    return bytes(data)
