"""Whitening of the latents, folded into the weights of the model.

A plain autoencoder does not constrain its latents, so samples of N(0, I) fall outside them. The latents leave one
affine layer and enter another: a change of basis can be folded into the first and undone in the second. No
reconstruction and no linear interpolation changes. The latents of the train images get mean 0 and covariance I, and a
sample of N(0, I) decodes as a sample of the Gaussian fitted to the original latents.
"""

import torch
from torch import Tensor

from catae.model.autoencoder import AutoEncoder, convolutions
from catae.model.layers import FromLatent, ToLatent
from catae.model.linalg import moments, principal

FLOOR = 1e-6  # of the largest variance: constant directions are not amplified, and samples do not move along them


@torch.no_grad()
def fold_whitening(model: AutoEncoder, latents: Tensor) -> Tensor:
    """Fold a basis into the model in which latents are uncorrelated, with mean 0 and variance 1.

    The dimensions of the new basis are the principal components of the old latents, in order of decreasing variance.
    With their directions U (rows) and standard deviations s, the new latent is (z - mean) Uᵀ / s, and the decoder
    inverts it. It is computed in float64: one layer would magnify the rounding errors of the other.

    Args:
        model: the model; the last layer of the encoder and the first layer of the decoder are changed in place.
        latents: the latents of its train images, (count, latent_dim, 1, 1).

    Returns:
        The same latents in the new basis.
    """
    *_, to_latent = convolutions(model.encoder)
    from_latent, *_ = convolutions(model.decoder)
    assert isinstance(to_latent, ToLatent)
    assert isinstance(from_latent, FromLatent)
    assert to_latent.bias is not None
    points = latents.flatten(1).double()
    mean, covariance = moments(points)
    directions, variances = principal(covariance, len(mean))
    deviations = variances.clamp(min=max(FLOOR * variances[0].item(), torch.finfo(torch.float32).tiny)).sqrt()
    whiten, unwhiten = directions / deviations[:, None], directions * deviations[:, None]

    weight, bias = from_latent.weight.double(), to_latent.bias.double()
    to_latent.weight.copy_(torch.einsum("nc,cihw->nihw", whiten, to_latent.weight.double()))
    to_latent.bias.copy_(whiten @ (bias - mean))
    from_latent.weight.copy_(torch.einsum("nc,cohw->nohw", unwhiten, weight))
    from_latent.bias.add_(torch.einsum("c,cohw->ohw", mean, weight))
    return ((points - mean) @ whiten.T).float()[..., None, None]
