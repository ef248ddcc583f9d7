"""The base of every architecture's configuration. Needs no JAX, so that a sweep file can be checked without it."""

import msgspec


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of an architecture: frozen, checked once; field names are the keys of `model:` in a sweep file."""
