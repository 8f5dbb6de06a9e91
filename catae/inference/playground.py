"""Serve a page to explore a trained model: mix four images, move along directions, draw samples.

The page holds the latents and mixes them. It sends each mix over a WebSocket and gets the image back, so the server
keeps no state of a visitor. The page is meant for one person on this machine; requests from other sites are refused.
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
MAX_UPLOAD = 10_000_000  # bytes
MAX_VALUE = 1000.0  # of a latent's dimension: far outside the data, and far below an overflow
SEEDS = 2**32
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = {"/": ("play.html", "text/html"), "/play.js": ("play.js", "text/javascript")}


@dataclass(frozen=True)
class Session:
    """The model that the page shows, and the images it starts from.

    Attributes:
        name: the id of the run.
        model: in evaluation mode.
        priors: what samples are drawn from.
        directions: (at most 8, latent_dim), from `strongest_directions`.
        images: the run's images, or None if they are no longer in the cache.
        test: the positions of its test images.
    """

    name: str
    model: AutoEncoder
    priors: Priors
    directions: Tensor
    images: ImageStore | None
    test: Sequence[int]


def open_session(run: Run) -> Session:
    """Load the model of a finished run, its priors, and its test images if they are still in the cache."""
    model = weights.load(run.model)
    store = Path(run.read()["data"]["store"])
    images = ImageStore(store) if store.is_dir() else None
    test = split.open_split(run.split, images.names).test if images else []
    directions = strongest_directions(model, DIRECTIONS)
    return Session(run.id, model, priors.load(run.priors), directions, images, test)


@torch.inference_mode()
def strongest_directions(model: AutoEncoder, count: int) -> Tensor:
    """Return the latent directions along which images change most: (count, latent_dim), orthonormal rows.

    The images of samples of N(0, I) are regressed on their latents. By Stein's lemma the coefficients are the decoder's
    mean derivative; the result is its first singular directions. GANSpace also uses a regression, but on the principal
    components of an inner layer (Härkönen et al. 2020, https://arxiv.org/abs/2004.02546). Train latents have
    covariance I, so a step of 1 is one standard deviation.

    Args:
        model: the model whose decoder is used.
        count: number of directions; at most latent_dim are returned.
    """
    dim = model.latent_dim
    generator = rng.generator(0, "directions")
    moments, products = torch.zeros(dim, dim), torch.zeros(dim, 3 * model.image_size**2)
    for _ in range(max(4, 4 * dim // loader.EVALUATION_BATCH)):
        latents = torch.randn(loader.EVALUATION_BATCH, dim, generator=generator)
        latents -= latents.mean(0)  # replaces the constant of the regression
        moments += latents.T @ latents
        products += latents.T @ model.decoder(latents[..., None, None]).flatten(1)
    coefficients = torch.linalg.lstsq(moments, products).solution.double()
    directions, _ = principal(coefficients @ coefficients.T, count)
    return directions.float()


def application(session: Session, hosts: Sequence[str] | None = LOOPBACK) -> Starlette:
    """Return the web application: the page and its endpoints.

    Args:
        session: what the page shows.
        hosts: host names that a request may use for this server; None for any.
    """
    handlers = Handlers(session)
    routes = [Route(path, _file) for path in (*FILES, "/play.css")]
    routes += [Route(f"/{name}", getattr(handlers, name)) for name in ("model", "images", "samples")]
    routes += [Route("/encode", handlers.encode, methods=["POST"])]
    return Starlette(
        routes=[*routes, WebSocketRoute("/frames", handlers.frames)],
        middleware=[Middleware(OriginGuard, hosts=hosts)],
        exception_handlers={_RequestError: _error_response},
    )


class Handlers:
    """The endpoints that the page's script calls."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def model(self, request: Request) -> Response:
        """Return what the page starts from: sizes, directions and the names of the priors."""
        return JSONResponse(
            {
                "name": self.session.name,
                "size": self.session.model.image_size,
                "dimensions": self.session.model.latent_dim,
                "directions": self.session.directions.tolist(),
                "priors": [name for name in get_args(priors.Name) if name in self.session.priors],
                "tests": len(self.session.test),
            }
        )

    async def images(self, request: Request) -> Response:
        """Return four random test images, or four samples if the run's images are gone."""
        images, test, seed = self.session.images, self.session.test, _seed(request)
        if images is None or not len(test):
            return self._response(self.session.priors["randn"].sample(4, seed), ["a sample"] * 4)
        fractions = torch.rand(4, generator=rng.generator(seed, "corners"))
        positions = [test[int(fraction * len(test))] for fraction in fractions]
        names = [printable(images.names[position]) for position in positions]
        return self._response(self._encode(images.take(positions)), names)

    async def samples(self, request: Request) -> Response:
        """Return twelve samples of the prior and the seed in the query."""
        seed, prior = _seed(request), request.query_params.get("prior", "randn")
        known = next((name for name in self.session.priors if name == prior), None)
        if known is None:
            raise _RequestError(400, f"the prior must be one of {', '.join(self.session.priors)}")
        names = [f"sample {number}" for number in range(1, SAMPLES + 1)]
        return self._response(self.session.priors[known].sample(SAMPLES, seed), names)

    async def encode(self, request: Request) -> Response:
        """Return the latent of the user's image; the request's body is the image file."""
        data = io.BytesIO()
        async for part in request.stream():
            if data.tell() + len(part) > MAX_UPLOAD:
                raise _RequestError(413, f"the file is larger than {MAX_UPLOAD // 10**6} MB")
            data.write(part)
        try:
            pixels = decode.decode(data.getvalue(), self.session.model.image_size)
        except DecodeError as error:
            raise _RequestError(415, str(error)) from error
        return self._response(self._encode(pixels[None]), ["your image"])

    async def frames(self, socket: WebSocket) -> None:
        """Answer each latent, as little-endian float32, with its image, as RGBA."""
        await socket.accept()
        try:
            while True:
                latent = _latent(await socket.receive_bytes(), self.session.model.latent_dim)
                await socket.send_bytes(_rgba(space.decode(self.session.model, latent)[0]))
        except (KeyError, ValueError) as error:  # KeyError: the message was text, not bytes
            await socket.close(1007, str(error)[:100])
        except WebSocketDisconnect:
            return

    def _encode(self, pixels: Pixels) -> Tensor:
        return space.encode(self.session.model, [transforms.normalize(pixels)])

    def _response(self, latents: Tensor, names: Sequence[str]) -> Response:
        """Return latents as JSON, each with its name and its decoded image."""
        images = space.decode(self.session.model, latents)
        return JSONResponse(
            [
                {"name": name, "latent": latent, "image": html.embed_pixels(image).address}
                for name, latent, image in zip(names, latents.flatten(1).tolist(), images, strict=True)
            ]
        )


class OriginGuard:
    """Refuse other sites: a foreign host name for this server (DNS rebinding) or a foreign origin."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 403, a WebSocket before it is accepted; add security headers to all other responses."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif not self._is_trusted(Headers(scope=scope)):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await PlainTextResponse("this page is only for browsers on this machine\n", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, _with_security_headers(send))

    def _is_trusted(self, headers: Headers) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
        return (self.hosts is None or name in self.hosts) and origin in (None, f"http://{host}")


def _with_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message["headers"],
                (b"content-security-policy", POLICY.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"cache-control", b"no-store"),
            ]
        await send(message)

    return send_with_headers


class _RequestError(Exception):
    """A request that cannot be answered. Its arguments are the HTTP status and the reason."""


async def _error_response(request: Request, error: Exception) -> Response:
    status, reason = error.args
    return PlainTextResponse(f"{reason}\n", status)


async def _file(request: Request) -> Response:
    if request.url.path == "/play.css":
        return Response("".join(style.read_text() for style in STYLES), media_type="text/css")
    name, media_type = FILES[request.url.path]
    return Response((TEMPLATES / name).read_bytes(), media_type=media_type)


def _seed(request: Request) -> int:
    text = request.query_params.get("seed", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < SEEDS):
        raise _RequestError(400, f"the seed must be an integer from 0 to {SEEDS - 1}")
    return int(text)


def _latent(data: bytes, dim: int) -> Tensor:
    """Return the latent (1, dim, 1, 1) in the bytes of little-endian float32.

    Raises:
        ValueError: the length is wrong, or a value is NaN or too large.
    """
    if len(data) != 4 * dim:
        raise ValueError(f"a latent must have {dim} values of 4 bytes")
    values = np.frombuffer(data, "<f4").astype(np.float32)
    if not (np.abs(values) <= MAX_VALUE).all():
        raise ValueError(f"the values of a latent must be from -{MAX_VALUE:g} to {MAX_VALUE:g}")
    return torch.from_numpy(values).view(1, dim, 1, 1)


def _rgba(pixels: Pixels) -> bytes:
    """Return pixels (height, width, 3) as the RGBA bytes that a canvas takes."""
    return np.pad(pixels, ((0, 0), (0, 0), (0, 1)), constant_values=255).tobytes()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket to serve the page on. Port 0 takes a free port.

    Raises:
        UserError: the port is taken, or the host is not an address of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host}:{port}: {why}; --port 0 takes a free port") from error


def serve(session: Session, listening: socket.socket, hosts: Sequence[str] | None) -> None:
    """Serve the page until a signal comes, then raise what the signal would have raised."""
    config = uvicorn.Config(
        application(session, hosts),
        log_level="error",
        lifespan="off",
        ws_max_size=4 * session.model.latent_dim,
        ws_per_message_deflate=False,  # compression makes a latent longer than ws_max_size
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listening])
