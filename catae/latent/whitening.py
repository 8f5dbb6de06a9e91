"""Whitening of the latents, folded into the weights of the model.

A plain autoencoder does not constrain its latents, so samples of N(0, I) fall outside them. Here the latents z become
(z - mean) Uᵀ / s, with the directions U (rows) and standard deviations s of their principal components. No
reconstruction and no linear interpolation changes. The latents of the train images get mean 0 and covariance I, and a
sample of N(0, I) decodes as a sample of the Gaussian fitted to the original latents.

The change of basis is folded into the last layer of the encoder. A 1x1 convolution before the decoder undoes it: the
layer from 1x1 to 4x4 has a bias per channel, and could undo the shift only with one per position. The activation after
the 1x1 convolution loses nothing, since x = relu(x) - relu(-x). Without the shift, by the second moments alone, samples
of three models were 9 to 21 % further from test images (sliced Wasserstein distance): the mean had norm 0.91 to 0.92.
"""

import torch
from torch import Tensor

from catae.model import weights
from catae.model.autoencoder import AutoEncoder, convolutions
from catae.model.init import set_signed
from catae.model.linalg import moments, principal

FLOOR = 1e-6  # of the largest variance: constant directions are not amplified, and samples do not move along them


@torch.no_grad()
def fold_whitening(model: AutoEncoder, latents: Tensor) -> tuple[AutoEncoder, Tensor]:
    """Return the model with whitened latents, and the same latents in the new basis.

    The dimensions of the new basis are in order of decreasing variance. It is computed in float64: one layer would
    magnify the rounding errors of the other.

    Args:
        model: the model; it stays as it is.
        latents: the latents of its train images, (count, latent_dim, 1, 1).
    """
    assert not model.whitened
    points = latents.flatten(1).double()
    mean, covariance = moments(points)
    directions, variances = principal(covariance, len(mean))
    deviations = variances.clamp(min=max(FLOOR * variances[0].item(), torch.finfo(torch.float32).tiny)).sqrt()
    whiten, unwhiten = directions / deviations[:, None], directions * deviations[:, None]

    whitened = AutoEncoder(**weights.shape(model) | {"whitened": True})  # type: ignore[arg-type]
    whitened.encoder.load_state_dict(model.encoder.state_dict())
    *_, to_latent = convolutions(whitened.encoder)
    assert to_latent.bias is not None
    to_latent.weight.copy_(torch.einsum("nc,cihw->nihw", whiten, to_latent.weight.double()))
    to_latent.bias.copy_(whiten @ (to_latent.bias.double() - mean))

    from_latent, *upsamples = convolutions(model.decoder)
    pointwise, from_pointwise, *copies = convolutions(whitened.decoder)
    assert from_latent.bias is not None
    set_signed(pointwise, unwhiten[:, :, None, None], mean)
    set_signed(from_pointwise, from_latent.weight, from_latent.bias)
    for layer, copy in zip(upsamples, copies, strict=True):
        copy.load_state_dict(layer.state_dict())
    whitened.to(memory_format=torch.channels_last)
    return whitened.eval(), ((points - mean) @ whiten.T).float()[..., None, None]
