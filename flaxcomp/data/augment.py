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
    _, _, bright, contrast = jax.random.split(key, 4)
    n = len(images)
    corner, mirrored = _moves(n, spec, key)
    images = _moved(images, spec, corner, mirrored)
    if spec.brightness:
        images = images + jax.random.uniform(bright, (n, 1, 1, 1), minval=-spec.brightness, maxval=spec.brightness)
    if spec.contrast is not None:
        low, high = spec.contrast
        mean = images.mean((1, 2), keepdims=True)
        images = (images - mean) * jax.random.uniform(contrast, (n, 1, 1, 1), minval=low, maxval=high) + mean
    return images


def variants_of(n: int, spec: Augment, key: jax.Array) -> jax.Array:
    """Which of the `spec.variants` ways `augment` changes each of n images with this key: int32 [n].

    Raises:
        ValueError: there are endless ones.
    """
    if spec.variants is None:
        raise ValueError("brightness and contrast change an image in endless ways")
    corner, mirrored = _moves(n, spec, key)
    number = jnp.zeros(n, jnp.int32) if corner is None else corner[:, 0] * (2 * spec.pad + 1) + corner[:, 1]
    return number if mirrored is None else 2 * number + mirrored


def variant(images: jax.Array, spec: Augment, number: jax.Array) -> jax.Array:
    """All images changed in the same way, number of `spec.variants`; float32 [n, h, w, c]."""
    n = len(images)
    mirrored = jnp.broadcast_to(number % 2 == 1, n) if spec.flip else None
    crop = number // 2 if spec.flip else number
    offsets = 2 * spec.pad + 1
    corner = jnp.broadcast_to(jnp.stack([crop // offsets, crop % offsets]), (n, 2)) if spec.pad else None
    return _moved(images, spec, corner, mirrored)


def _moves(n: int, spec: Augment, key: jax.Array) -> tuple[jax.Array | None, jax.Array | None]:
    """The upper left corner of each crop, int32 [n, 2], and which images are flipped, [n]; None where `spec` has no such."""
    crop, flip, _, _ = jax.random.split(key, 4)
    corner = jax.random.randint(crop, (n, 2), 0, 2 * spec.pad + 1) if spec.pad else None
    mirrored = jax.random.bernoulli(flip, 0.5, (n, 1, 1, 1)).reshape(n) if spec.flip else None
    return corner, mirrored


def _moved(images: jax.Array, spec: Augment, corner: jax.Array | None, mirrored: jax.Array | None) -> jax.Array:
    _, h, w, c = images.shape
    if corner is not None:
        p = spec.pad
        padded = jnp.pad(images, ((0, 0), (p, p), (p, p), (0, 0)), mode=spec.pad_mode)
        images = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (h, w, c)))(padded, corner)
    if mirrored is not None:
        images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return images
