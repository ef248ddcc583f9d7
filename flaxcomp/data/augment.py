"""Random changes to a batch of images, inside the compiled program. All depend on the key alone."""

import jax
import jax.numpy as jnp

from flaxcomp.sweep.spec import Augment


def augment(images: jax.Array, spec: Augment, key: jax.Array) -> jax.Array:
    """Pad and crop, flip, change brightness, then contrast, each as far as `spec` asks for it.

    Args:
        images: float32 in [0, 255], [n, h, w, c].
        key: a JAX random key.

    Returns:
        float32 [n, h, w, c]; brightness and contrast may leave [0, 255], as in the MobileNet study.
    """
    crop, flip, bright, contrast = jax.random.split(key, 4)
    n, h, w, c = images.shape
    if spec.pad:
        p = spec.pad
        padded = jnp.pad(images, ((0, 0), (p, p), (p, p), (0, 0)), mode=spec.pad_mode)
        corner = jax.random.randint(crop, (n, 2), 0, 2 * p + 1)
        images = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (h, w, c)))(padded, corner)
    if spec.flip:
        mirrored = jax.random.bernoulli(flip, 0.5, (n, 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    if spec.brightness:
        images = images + jax.random.uniform(bright, (n, 1, 1, 1), minval=-spec.brightness, maxval=spec.brightness)
    if spec.contrast is not None:
        low, high = spec.contrast
        mean = images.mean((1, 2), keepdims=True)
        images = (images - mean) * jax.random.uniform(contrast, (n, 1, 1, 1), minval=low, maxval=high) + mean
    return images
