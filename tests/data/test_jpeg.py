import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from catae.data import decode, jpeg, sources, synthetic
from catae.data.decode import Decoded
from catae.data.image_store import ImageStore
from catae.data.sources import Entry


def encoded(picture: Image.Image, **options: object) -> bytes:
    data = io.BytesIO()
    picture.save(data, "JPEG", **options)  # type: ignore[arg-type]
    return data.getvalue()


def both(data: bytes, name: str = "cat.jpg") -> tuple[Decoded | None, decode.Decoded | decode.Rejected]:
    entry = Entry(name, partial(bytes, data))
    return jpeg.decode(entry, 64), decode.decode_all([entry], 64)[0]


@pytest.mark.parametrize("quality", [10, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_plain_jpeg_gives_what_pillow_gives(quality: int, subsampling: int, progressive: bool) -> None:
    picture = synthetic.draw(quality + subsampling)
    plain, pillow = both(encoded(picture, quality=quality, subsampling=subsampling, progressive=progressive))
    assert plain is not None
    assert plain == pillow
    grey, pillow = both(encoded(picture.convert("L"), quality=quality, progressive=progressive))
    assert grey is not None
    assert grey == pillow


def test_what_is_not_plain_is_left_to_pillow() -> None:
    picture = synthetic.draw(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(picture)
    for data, name in [
        (encoded(picture, exif=exif), "turned.jpg"),
        (encoded(picture.convert("CMYK")), "ink.jpg"),
        (encoded(picture.resize((80, 64))), "wide.jpg"),
        (whole, "cat.png"),
        (whole[: len(whole) // 2], "torn.jpg"),
        (whole[:30], "stub.jpg"),
        (b"", "empty.jpg"),
        (b"\xff\xd8\xff\xe0\x00\x00" * 9, "loop.jpg"),
    ]:
        assert jpeg.decode(Entry(name, partial(bytes, data)), 64) is None, name


def test_a_header_that_claims_more_than_the_size_is_not_decoded() -> None:
    data = bytearray(encoded(synthetic.draw(0)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert jpeg.decode(Entry("bomb.jpg", partial(bytes, bytes(data))), 64) is None


@pytest.mark.cats
def test_every_tenth_real_cat_is_as_pillow_reads_it(cats_zip: object, cats_set: ImageStore) -> None:
    entries = [entry for entry in sources.entries(str(cats_zip)) if entry.name.endswith("7.jpg")]
    by_name = {name: position for position, name in enumerate(cats_set.names)}
    for entry in entries:
        expected = decode.decode(entry.read(), 64)
        assert np.array_equal(cats_set.take([by_name[entry.name]])[0], expected), entry.name
    assert len(entries) > 1500
