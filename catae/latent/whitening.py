"""A change of the codes' basis, folded into the model's weights: those of the train pictures have covariance I.

Nothing in training keeps a plain autoencoder's codes like N(0, I), and `torch.randn` lands beside them, where decoders
make mush or worse. They leave an affine layer, though, and enter another: what the one is given, the other can take
back. No restoration changes, and no straight walk between two codes; and noise of N(0, I) becomes what a Gaussian
fitted to the train codes would give. Their mean is 0.
"""

import torch
from torch import Tensor

from catae.model.autoencoder import AutoEncoder, convolutions
from catae.model.layers import FromLatent, ToLatent
from catae.model.linalg import moments, principal

FLOOR = 1e-6  # of the largest variance: what never varies isn't blown up, and noise along it shows nothing


@torch.no_grad()
def fold(model: AutoEncoder, codes: Tensor) -> Tensor:
    """Gives the model the basis in which codes are uncorrelated, each of mean 0 and variance 1.

    The new code's numbers are principal components of the old one's, the largest variance first. With their directions
    U (rows) and standard deviations s, the new code is (z - mean) Uᵀ / s, and the decoder takes it back. It is computed
    in float64, since the one's rounding errors would be magnified by the other.

    Args:
        model: of which the last layer of the encoder and the first one of the decoder are changed, in place.
        codes: of its train pictures, (count, latent_dim, 1, 1).

    Returns:
        The same codes in the new basis.
    """
    *_, to_code = convolutions(model.encoder)
    from_code, *_ = convolutions(model.decoder)
    assert isinstance(to_code, ToLatent)
    assert isinstance(from_code, FromLatent)
    assert to_code.bias is not None
    points = codes.flatten(1).double()
    mean, covariance = moments(points)
    directions, variances = principal(covariance, len(mean))
    deviations = variances.clamp(min=max(FLOOR * variances[0].item(), torch.finfo(torch.float32).tiny)).sqrt()
    there, back = directions / deviations[:, None], directions * deviations[:, None]

    old, bias = from_code.weight.double(), to_code.bias.double()
    to_code.weight.copy_(torch.einsum("nc,cihw->nihw", there, to_code.weight.double()))
    to_code.bias.copy_(there @ (bias - mean))
    from_code.weight.copy_(torch.einsum("nc,cohw->nohw", back, old))
    from_code.bias.add_(torch.einsum("c,cohw->ohw", mean, old))
    return ((points - mean) @ there.T).float()[..., None, None]
