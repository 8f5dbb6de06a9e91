"""A page to play with a trained model: drag between four pictures, along strong directions, and to new samples.

The page holds the codes and mixes them; it sends the mix over a WebSocket, and gets the picture back. So the server
keeps nothing of a visitor. It is meant for one person on this machine, and trusts no
other page that a browser has open.
"""

import io
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from torch import Tensor

from catae.data import decode, loader, split, transforms
from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.errors import DecodeError, UserError
from catae.latent import priors, space
from catae.latent.priors import Priors
from catae.model import weights
from catae.model.autoencoder import AutoEncoder
from catae.model.linalg import principal
from catae.report import html
from catae.run import Run
from catae.system import rng
from catae.system.text import printable

TEMPLATES = Path(__file__).parent / "templates"
STYLES = (Path(html.__file__).parent / "templates" / "style.css", TEMPLATES / "play.css")
DIRECTIONS = 8
SAMPLES = 12
LARGEST_UPLOAD = 10_000_000  # bytes
LARGEST = 1000.0  # of a code's numbers: far beyond what has a picture, and far from what overflows
SEEDS = 2**32
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = {"/": ("play.html", "text/html"), "/play.js": ("play.js", "text/javascript")}


@dataclass(frozen=True)
class Session:
    """What is played with.

    Attributes:
        name: of the run.
        model: in evaluation mode.
        priors: what samples are drawn from.
        directions: (at most 8, latent_dim), as `strongest` gives them.
        images: the run's pictures, or None where they are gone.
        test: the positions of its test pictures among them.
    """

    name: str
    model: AutoEncoder
    priors: Priors
    directions: Tensor
    images: ImageStore | None
    test: Sequence[int]


def open_run(run: Run) -> Session:
    """The model of a run that is over, its priors, and its test pictures if they are still where it read them."""
    model = weights.load(run.model)
    store = Path(run.read()["data"]["store"])
    images = ImageStore(store) if store.is_dir() else None
    test = split.open_split(run.split, images.names).test if images else []
    return Session(run.id, model, priors.load(run.priors), strongest(model, DIRECTIONS), images, test)


@torch.inference_mode()
def strongest(model: AutoEncoder, count: int) -> Tensor:
    """The directions of the codes along which pictures change most: (count, latent_dim), orthonormal rows.

    The pictures of codes of N(0, I) are regressed on the codes. By Stein's lemma the coefficients are the decoder's
    mean derivative; its first singular directions are taken. GANSpace regresses as well, but on components
    of an inner layer (Härkönen et al. 2020, https://arxiv.org/abs/2004.02546). As train codes have
    covariance I, a step of 1 is a standard deviation.

    Args:
        model: whose decoder.
        count: how many; as many as a code has numbers, if that is less.
    """
    dim = model.latent_dim
    generator = rng.generator(0, "directions")
    moments, products = torch.zeros(dim, dim), torch.zeros(dim, 3 * model.image_size**2)
    for _ in range(max(4, 4 * dim // loader.EVALUATION_BATCH)):
        codes = torch.randn(loader.EVALUATION_BATCH, dim, generator=generator)
        codes -= codes.mean(0)  # the constant of the regression
        moments += codes.T @ codes
        products += codes.T @ model.decoder(codes[..., None, None]).flatten(1)
    coefficients = torch.linalg.lstsq(moments, products).solution.double()
    directions, _ = principal(coefficients @ coefficients.T, count)
    return directions.float()


def application(toy: Session, hosts: Sequence[str] | None = LOOPBACK) -> Starlette:
    """The page and what it asks for.

    Args:
        toy: what is played with.
        hosts: the names that a browser may call this server by; None for any.
    """
    answers = Handlers(toy)
    routes = [Route(path, _file) for path in (*FILES, "/play.css")]
    routes += [Route(f"/{name}", getattr(answers, name)) for name in ("model", "cats", "samples")]
    routes += [Route("/encode", answers.encode, methods=["POST"])]
    return Starlette(
        routes=[*routes, WebSocketRoute("/frames", answers.frames)],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={_Refused: _refuse},
    )


class Handlers:
    """What the page gets for what it asks."""

    def __init__(self, toy: Session) -> None:
        self.toy = toy

    async def model(self, request: Request) -> Response:
        """What the page begins with: sizes, directions and the priors' names."""
        return JSONResponse(
            {
                "name": self.toy.name,
                "size": self.toy.model.image_size,
                "dimensions": self.toy.model.latent_dim,
                "directions": self.toy.directions.tolist(),
                "priors": [name for name in get_args(priors.Name) if name in self.toy.priors],
                "tests": len(self.toy.test),
            }
        )

    async def cats(self, request: Request) -> Response:
        """Four test pictures by seed, and where there are none, four samples."""
        images, test, seed = self.toy.images, self.toy.test, _seed(request)
        if images is None or not len(test):
            return self._shown(self.toy.priors["randn"].sample(4, seed), ["a sample"] * 4)
        chances = torch.rand(4, generator=rng.generator(seed, "corners"))
        chosen = [test[int(chance * len(test))] for chance in chances]
        latents = space.encode(self.toy.model, [transforms.normalize(images.take(chosen))])
        return self._shown(latents, [printable(images.names[place]) for place in chosen])

    async def samples(self, request: Request) -> Response:
        """Twelve samples of the prior and the seed that are asked for."""
        seed, prior = _seed(request), request.query_params.get("prior", "randn")
        known = next((name for name in self.toy.priors if name == prior), None)
        if known is None:
            raise _Refused(400, f"the prior is one of {', '.join(self.toy.priors)}")
        names = [f"sample {number}" for number in range(1, SAMPLES + 1)]
        return self._shown(self.toy.priors[known].sample(SAMPLES, seed), names)

    async def encode(self, request: Request) -> Response:
        """A picture of the user's: the bytes of a file, as the body."""
        data = io.BytesIO()
        async for part in request.stream():
            if data.tell() + len(part) > LARGEST_UPLOAD:
                raise _Refused(413, f"the file has more than {LARGEST_UPLOAD // 10**6} MB")
            data.write(part)
        try:
            pixels = decode.decode(data.getvalue(), self.toy.model.image_size)
        except DecodeError as error:
            raise _Refused(415, str(error)) from error
        return self._shown(space.encode(self.toy.model, [transforms.normalize(pixels[None])]), ["your picture"])

    async def frames(self, socket: WebSocket) -> None:
        """For each code, as little-endian float32, its picture, as RGBA."""
        await socket.accept()
        try:
            while True:
                code = _code(await socket.receive_bytes(), self.toy.model.latent_dim)
                await socket.send_bytes(_rgba(space.decode(self.toy.model, code)[0]))
        except (KeyError, ValueError) as error:  # KeyError: text came, and no bytes
            await socket.close(1007, str(error)[:100])
        except WebSocketDisconnect:
            return

    def _shown(self, codes: Tensor, names: Sequence[str]) -> Response:
        """Codes for the page, each with the picture that it stands for."""
        pictures = space.decode(self.toy.model, codes)
        return JSONResponse(
            [
                {"name": name, "code": code, "picture": html.embed_pixels(picture).address}
                for name, code, picture in zip(names, codes.flatten(1).tolist(), pictures, strict=True)
            ]
        )


class Guard:
    """Lets no other page in: neither by its own name for this machine (DNS rebinding) nor from its own origin."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses with 403, a WebSocket before it is accepted; what is let through gets the page's policy."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif not self._is_trusted(Headers(scope=scope)):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await PlainTextResponse("this page is for this machine's own browser\n", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, _with_policy(send))

    def _is_trusted(self, headers: Headers) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
        return (self.hosts is None or name in self.hosts) and origin in (None, f"http://{host}")


def _with_policy(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message["headers"],
                (b"content-security-policy", POLICY.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"cache-control", b"no-store"),
            ]
        await send(message)

    return sending


class _Refused(Exception):
    """A request that can't be met: the status, and why."""


async def _refuse(request: Request, error: Exception) -> Response:
    status, why = error.args
    return PlainTextResponse(f"{why}\n", status)


async def _file(request: Request) -> Response:
    if request.url.path == "/play.css":
        return Response("".join(style.read_text() for style in STYLES), media_type="text/css")
    name, kind = FILES[request.url.path]
    return Response((TEMPLATES / name).read_bytes(), media_type=kind)


def _seed(request: Request) -> int:
    text = request.query_params.get("seed", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < SEEDS):
        raise _Refused(400, f"the seed is a whole number from 0 to {SEEDS - 1}")
    return int(text)


def _code(data: bytes, dim: int) -> Tensor:
    """The code (1, dim, 1, 1) in the bytes of little-endian float32.

    Raises:
        ValueError: there are more or fewer numbers, or some are no numbers or too large.
    """
    if len(data) != 4 * dim:
        raise ValueError(f"a code has {dim} numbers of 4 bytes")
    numbers = np.frombuffer(data, "<f4").astype(np.float32)
    if not (np.abs(numbers) <= LARGEST).all():
        raise ValueError(f"a code's numbers are from -{LARGEST:g} to {LARGEST:g}")
    return torch.from_numpy(numbers).view(1, dim, 1, 1)


def _rgba(pixels: Pixels) -> bytes:
    """Pixels (height, width, 3) as a canvas takes them."""
    return np.pad(pixels, ((0, 0), (0, 0), (0, 1)), constant_values=255).tobytes()


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve the page on; port 0 takes a free one.

    Raises:
        UserError: the port is taken, or the host is none of this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{host}:{port} can't be listened on: {why}; try --port 0, which takes a free one") from error


def serve(toy: Session, listening: socket.socket, hosts: Sequence[str] | None) -> None:
    """Serves the page until a signal comes, and then raises what the signal would have raised."""
    config = uvicorn.Config(
        application(toy, hosts),
        log_level="error",
        lifespan="off",
        ws_max_size=4 * toy.model.latent_dim,
        ws_per_message_deflate=False,  # a code that browsers compress is longer than before, and would be refused
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listening])
