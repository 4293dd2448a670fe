"""What the reparameterization trick is for: z = mu + sigma * eps lets the gradient of the ELBO reach mu and sigma."""

import numpy as np
import pytest
import torch

from service.manifest import Feature
from training.config import Config
from training.preprocessing import Preprocessing
from training.vae import VAE, chosen, reparameterize


@pytest.fixture
def net():
    features = [Feature(name=f"f{i}", kind="numeric") for i in range(4)]
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    torch.manual_seed(0)
    preprocessing = Preprocessing(features, x)
    return VAE(preprocessing, Config(hidden=8, latent=3)), preprocessing(torch.from_numpy(x))


def decoded_loss(net, slots, z):
    """The part of -ELBO that only z carries: no gradient can come to mu and log_var from the KL."""
    return ((slots.y - net.decoder(z)) ** 2).sum()


def test_the_gradient_reaches_mu_and_sigma_through_the_sum(net):
    net, slots = net
    posterior = net.encoder(slots)
    eps = torch.randn(64, 3)
    grads = torch.autograd.grad(decoded_loss(net, slots, reparameterize(*posterior, eps)), posterior)
    assert all((grad != 0).any() for grad in grads)


def test_the_gradient_is_that_of_z_times_what_eps_says(net):
    net, slots = net
    mu, log_var = net.encoder(slots)
    eps = torch.randn(64, 3)
    z = reparameterize(mu, log_var, eps)
    to_z, to_mu, to_log_var = torch.autograd.grad(decoded_loss(net, slots, z), (z, mu, log_var))
    torch.testing.assert_close(to_mu, to_z)
    torch.testing.assert_close(to_log_var, to_z * eps * 0.5 * torch.exp(0.5 * log_var))


def test_no_gradient_passes_a_plain_draw(net):
    net, slots = net
    mu, log_var = net.encoder(slots)
    plain = torch.distributions.Normal(mu, torch.exp(0.5 * log_var)).sample()
    assert not plain.requires_grad
    loss = decoded_loss(net, slots, plain)  # the decoder still learns, the encoder gets nothing
    assert torch.autograd.grad(loss, (mu, log_var), allow_unused=True) == (None, None)


def test_the_trick_draws_what_a_plain_draw_does():
    torch.manual_seed(1)
    mu, log_var = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, -2.0]])
    z = reparameterize(mu.expand(200_000, 2), log_var.expand(200_000, 2), torch.randn(200_000, 2))
    torch.testing.assert_close(z.mean(0), mu[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), torch.exp(log_var[0]), atol=0, rtol=0.02)


def test_without_eps_the_latent_is_a_point(net):
    net, slots = net
    with torch.no_grad():
        mu, log_var = net.encoder(slots)
        assert torch.equal(reparameterize(mu, log_var, torch.zeros_like(mu)), mu)
        (first, out), (second, again) = net(slots), net(slots)
        drawn = net(slots, torch.randn_like(mu))[1]
    assert torch.equal(out, again)
    assert torch.equal(first.nats, second.nats)
    assert not torch.equal(out, drawn)


def test_mu_plus_sigma_would_shift_the_latent_and_not_spread_it(net):
    """Why the noise and not just mu + sigma: a constant eps has no spread, so sigma would be one more bias."""
    net, slots = net
    with torch.no_grad():
        mu, log_var = net.encoder(slots)
        shifted = reparameterize(mu, log_var, torch.ones_like(mu))
    torch.testing.assert_close(shifted - mu, torch.exp(0.5 * log_var))


def test_every_head_chooses_among_its_own_prototypes(net):
    net, _ = net
    shares = chosen(net.decoder.choice(torch.randn(50, 3)), net.decoder.choices).reshape(50, -1, net.decoder.choices)
    torch.testing.assert_close(shares.sum(2), torch.ones(50, 8))


def test_a_decoder_cannot_go_beyond_sums_of_its_prototypes(net):
    """However far a code is off, what is said of it lies where prototypes, one of each head, can bring it."""
    net, _ = net
    words = net.decoder.prototypes.weight.reshape(4, -1, net.decoder.choices)
    low, high = (net.decoder.prototypes.bias + end.sum(1) for end in (words.amin(2), words.amax(2)))
    with torch.no_grad():
        out = net.decoder(1e6 * torch.randn(500, 3))
    assert ((out >= low - 1e-4) & (out <= high + 1e-4)).all()
    assert out.std() > 0.1
